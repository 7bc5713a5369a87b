"""Sizes of small models of RF-DETR."""

from collections.abc import Callable

import pytest

from densevit_backbones.vit.variants import VARIANTS, Variant
from densevit_heads.rf_detr import backbone_checkpoints


@pytest.fixture
def small_rf_detr(variant: Callable[..., None]) -> None:
    """The sizes of `models.rf_detr` and `models.lw_detr` are those of variants."""
    for name, sizes in {"nano": (48, 12, 4), "lw_tiny": (48, 6, 12)}.items():  # width, depth, heads
        variant(VARIANTS, name, Variant(*sizes, 0.0))
        variant(backbone_checkpoints.VARIANTS, name, sizes)
