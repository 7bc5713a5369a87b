"""Windows of rectangles are attention with a mask, one window is a plain ViT, and options of released models.

tests/weights/layouts compares the models of RF-DETR and LW-DETR with transformers'.
"""

import math
from typing import Any

import pytest
import torch
from torch.nn import functional as F

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


@pytest.mark.parametrize(("variant", "registers"), [("nano", 2), ("lw_tiny", 0)])
@torch.no_grad()
def test_windows_of_rectangles_are_attention_with_a_mask(variant, registers, randomise):
    """A grid of 6 x 4 cells in 2 x 2 windows of 3 x 2, of an image that is padded to 96 x 64."""
    backbone = WindowedViT(variant, registers=registers, image_size=64).eval()
    randomise(backbone)
    images = torch.randn(2, 3, 85, 62)
    cells = backbone.stem(F.pad(images, (0, 2, 0, 11)))[1]
    tokens, first = backbone._embed(cells, (6, 4))
    windows = [2 * (i // 4 // 3) + i % 4 // 2 for i in range(24)]
    windows += [window for window in range(4) for _ in range(first)]
    x = torch.cat([tokens[:, first:], *([tokens[:, :first]] * 4)], dim=1)
    ids = torch.tensor(windows)
    mask = torch.where(ids[:, None] == ids, 0.0, -math.inf)
    expected = []
    for number, block in enumerate(backbone.blocks, 1):
        x = block(x, (6, 4), None, None if number in backbone.global_blocks else mask)
        if number in backbone.feature_blocks:
            feature = x if backbone.norm is None else backbone.norm(x)
            expected.append(feature[:, :24].transpose(1, 2).unflatten(2, (6, 4)))
    for x, y in zip(backbone(images), expected, strict=True):
        torch.testing.assert_close(x, y, atol=1e-4, rtol=1e-4)


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


def test_other_global_blocks_are_refused():
    config = {
        "model_type": "lw_detr_vit", "num_windows": 16, "num_hidden_layers": 10, "out_indices": [3, 5, 6, 10],
        "window_block_indices": [0, 1, 3, 6, 7, 9],
    }  # fmt: skip
    found = backbone_checkpoints.saved({"config": {"backbone_config": config}})
    assert found == {"backbone.num_windows": 4, "backbone.features": (3, 5, 6, 10)}
    config["window_block_indices"] = [0, 1]
    with pytest.raises(WeightsError, match=r"\[0, 1\]"):
        backbone_checkpoints.saved({"config": {"backbone_config": config}})
