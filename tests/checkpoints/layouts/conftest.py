"""Sizes of small models of RF-DETR."""

import pytest

from densevit_backbones.vit.variants import VARIANTS, Variant
from densevit_heads.rf_detr import backbone_checkpoints


@pytest.fixture
def small_rf_detr(monkeypatch: pytest.MonkeyPatch) -> None:
    """The sizes of `models.rf_detr` and `models.lw_detr` are those of variants."""

    def variant(name: str, width: int, depth: int, heads: int) -> None:
        monkeypatch.setitem(VARIANTS, name, Variant(width, depth, heads, 0.0))
        monkeypatch.setitem(backbone_checkpoints.VARIANTS, name, (width, depth, heads))

    variant("nano", 48, 12, 4)
    variant("lw_tiny", 48, 6, 12)
