"""One window is a plain ViT, and options of released models.

tests/weights/layouts compares the models of RF-DETR and LW-DETR with transformers'.
"""

from typing import Any

import pytest
import torch

from densevit.errors import WeightsError
from densevit_backbones.vit import ViT, WindowedViT
from densevit_backbones.vit.variants import VARIANTS, Variant
from densevit_heads.rf_detr import backbone_checkpoints


@pytest.fixture(autouse=True)
def small_variants(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(VARIANTS, "nano", Variant(48, 12, 4, 0.0))
    monkeypatch.setitem(VARIANTS, "lw_tiny", Variant(48, 6, 12, 0.0))
    for name, depth in (("nano", 12), ("lw_tiny", 6)):
        monkeypatch.setitem(backbone_checkpoints.VARIANTS, name, (48, depth))


def test_one_window_is_a_plain_vit(randomise):
    """DINOv2's tensors have the same names here and there."""
    options = {"features": (3, 6, 9), "image_size": 64, "registers": 1, "layer_scale": 1.0}
    vit = ViT("nano", **options).eval()
    randomise(vit)
    backbone = WindowedViT("nano", num_windows=1, registers=1, image_size=64, features=(3, 6, 9)).eval()
    backbone.load_state_dict(vit.state_dict())
    images = torch.randn(1, 3, 80, 100)
    for x, y in zip(backbone(images), vit(images), strict=True):
        torch.testing.assert_close(x, y, atol=1e-5, rtol=1e-5)


def described(patch_size: int, side: int, depth: int = 12, lw_detr: bool = False) -> dict[str, Any]:
    names = [f"blocks.{i}.norm1.weight" for i in range(depth)] + ([] if lw_detr else ["class_token"])
    tensors = {name: torch.zeros(48) for name in names}
    patches, positions = torch.zeros(48, 3, patch_size, patch_size), torch.zeros(side, side, 48)
    return backbone_checkpoints.describe(tensors | {"stem.projection.weight": patches, "position_table": positions})


def test_tensors_of_released_models_have_their_windows():
    """The sides of the position tables are those of the package's configs."""
    assert [described(16, side)["num_windows"] for side in (24, 32, 36, 44)] == [2] * 4
    assert [described(12, side)["num_windows"] for side in (26, 32, 36, 42)] == [1, 2, 2, 2]
    base = described(14, 37, depth=11)
    assert (base["num_windows"], base["features"], base["image_size"]) == (4, (2, 5, 8, 11), 518)
    small = described(16, 14, depth=6, lw_detr=True)
    assert (small["variant"], small["num_windows"], small["image_size"]) == ("lw_tiny", 4, 224)
    with pytest.raises(WeightsError, match=r"\(48, 7\) is no known variant: nano"):
        described(16, 24, depth=7)
