"""Parameters and multiply-adds match the papers."""

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from densevit_backbones.vit import ViT
from densevit_backbones.vit.blocks import Attention, Block
from densevit_backbones.vit.windows import Windows


def multiply_adds(model: nn.Module, *inputs: object) -> float:
    """Of convolutions and matrix products, including those of attention, on the meta device."""
    with FlopCounterMode(display=False) as counter:
        model(*inputs)
    return counter.get_total_flops() / 2


@pytest.mark.parametrize(
    ("options", "published"),
    [
        ({"variant": "base", "image_size": 384}, 86.86e6),  # ViT, as reported by timm and torchvision
        ({"variant": "large", "image_size": 384}, 304.7e6),
        ({"variant": "tiny"}, 5.72e6),  # DeiT, table 1
        ({"variant": "small"}, 22.05e6),
        ({"variant": "base"}, 86.57e6),
        ({"variant": "huge", "patch_size": 14}, (630.8e6, 632.1e6)),
        ({"variant": "giant", "patch_size": 14, "swiglu": True, "layer_scale": 1e-5, "image_size": 518}, 1138.0e6),
    ],
    ids=lambda value: "-".join(map(str, value.values())) if isinstance(value, dict) else None,
)
def test_parameter_counts_match_the_papers(options, published):
    with torch.device("meta"):
        vit = ViT(**options)
        classifier = nn.Linear(vit.channels[-1], 1000)
    found = sum(p.numel() for module in (vit, classifier) for p in module.parameters())
    low, high = published if isinstance(published, tuple) else (0.998 * published, 1.002 * published)
    assert 0.998 * low <= found <= 1.002 * high


@pytest.mark.parametrize(("variant", "published"), [("base", 55.4e9), ("large", 190.7e9)])
def test_multiply_adds_at_384_match_the_papers(variant, published):
    with torch.device("meta"):
        vit = ViT(variant, image_size=384).eval()
        classifier = nn.Linear(vit.channels[-1], 1000)
        found = multiply_adds(vit, torch.empty(1, 3, 384, 384)) + classifier.weight.numel()
    assert found == pytest.approx(published, rel=0.015)


@pytest.mark.parametrize(("height", "width"), [(14, 14), (24, 31), (50, 67)])
def test_global_attention_costs_4hwc2_and_2_hw_2_c(height, width):
    cells, C = height * width, 192
    with torch.device("meta"):
        found = multiply_adds(Attention(C, 3), torch.empty(1, cells, C))
    assert found == 4 * cells * C**2 + 2 * cells**2 * C


def test_windowed_attention_costs_4hwc2_and_2_m2_hwc():
    height, width, C, M = 28, 42, 192, 7
    with torch.device("meta"):
        block = Block(C, 3, M, None, False, False, "erf", 0.0)
        found = multiply_adds(block, torch.empty(1, height * width, C), (height, width))
    perceptron = 8 * height * width * C**2
    assert found - perceptron == 4 * height * width * C**2 + 2 * M**2 * height * width * C


@pytest.mark.parametrize("size", [(32, 1333), (1021, 1327), (997, 64), (1333, 1333)], ids=str)
@pytest.mark.parametrize(
    "options",
    [
        {"patch_size": 14, "positions": "rotary", "windows": Windows(14)},
        {"stem": "resnet"},
        {"stem": "conv", "patch_size": 8, "windows": Windows(14)},
    ],
    ids=["rotary windows", "hybrid", "convolutions"],
)
def test_grids_of_large_images(options, size):
    with torch.device("meta"):
        vit = ViT("nano", **options).eval()
        features: list[Tensor] = vit(torch.empty(1, 3, *size))
    assert [tuple(x.shape[1:]) for x in features] == [
        (channels, -(-size[0] // stride), -(-size[1] // stride))
        for channels, stride in zip(vit.channels, vit.strides, strict=True)
    ]
