"""Swin's parameters and multiply-adds match the papers (Liu et al. 2021, tables 1 and 7)."""

import math

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from densevit_backbones.swin.attention import WindowAttention
from densevit_backbones.swin.backbone import Swin, SwinBlock


def multiply_adds(module: nn.Module, x: torch.Tensor) -> float:
    with FlopCounterMode(display=False) as counter:
        module(x)
    return counter.get_total_flops() / 2


@pytest.mark.parametrize(
    ("variant", "size", "window", "gmacs"),
    [("tiny", 224, 7, 4.5), ("small", 224, 7, 8.7), ("base", 224, 7, 15.4), ("base", 384, 12, 47.0)],
)
def test_multiply_adds_match_the_paper(variant, size, window, gmacs):
    with torch.device("meta"):
        swin = Swin(variant, window_size=window).eval()
        found = multiply_adds(swin, torch.empty(1, 3, size, size)) / 1e9
    assert found == pytest.approx(gmacs, rel=0.015)


@pytest.mark.parametrize(
    ("variant", "published", "gmacs"),
    [("tiny", 28_351_570, 5.94), ("small", 49_737_442, 11.546), ("base", 87_930_848, 20.325)],
)
def test_version_2_multiply_adds_match_torchvision(variant, published, gmacs):
    """torchvision's also has a key bias, which stays zero."""
    with torch.device("meta"):
        swin = Swin(variant, version=2).eval()
        classifier = nn.Sequential(nn.LayerNorm(swin.channels[-1]), nn.Linear(swin.channels[-1], 1000))
        found = multiply_adds(swin, torch.empty(1, 3, 256, 256)) / 1e9
    keys = sum(block.norm1.weight.numel() for block in swin.modules() if isinstance(block, SwinBlock))
    own = sum(p.numel() for p in swin.parameters()) - sum(p.numel() for p in swin.feature_norms.parameters())
    assert own + sum(p.numel() for p in classifier.parameters()) == published - keys
    assert found == pytest.approx(gmacs, rel=0.015)


@pytest.mark.parametrize("version", [1, 2])
def test_cost_grows_linearly_with_the_number_of_pixels(version):
    with torch.device("meta"):
        swin = Swin("tiny", version=version).eval()
        small, large = (multiply_adds(swin, torch.empty(1, 3, size, size)) for size in (256, 1024))
    assert 0.9 < math.log(large / small) / math.log(16) <= 1.1


@pytest.mark.parametrize("shifted", [False, True])
def test_windowed_attention_cost_matches_equation_2(shifted):
    h, w, M, C = 28, 42, 7, 96
    with torch.device("meta"):
        found = multiply_adds(WindowAttention(C, 3, M, shifted, "per_axis"), torch.empty(1, h, w, C))
    assert found == 4 * h * w * C**2 + 2 * M**2 * h * w * C
