"""Non-local blocks beside equations 1 to 6 of Wang et al. 2018; positions of the blocks."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from densevit_papers.attention_resnet import AttentionResNet
from densevit_papers.non_local import NonLocal, NonLocalBlock
from tests.papers.small_models import randomise


def block_by_hand(block: NonLocalBlock, x: torch.Tensor) -> torch.Tensor:
    """One image (C, H, W), one cell i at a time: y_i = sum_j f(x_i, x_j) g(x_j) / C(x), z_i = BN(W y_i) + x_i."""
    C, H, W = x.shape
    keys = F.max_pool2d(x, 2, ceil_mode=True) if block.subsampling else x  # those at the border may be incomplete
    keys = keys.flatten(1).T  # (S, C)

    def linear(layer: nn.Conv2d, cells: torch.Tensor) -> torch.Tensor:
        return cells @ layer.weight[:, :, 0, 0].T + layer.bias

    norm, results = block.norm, []
    for cell in x.flatten(1).T:
        if block.pairwise == "gaussian":
            f = (keys @ cell).exp()
        elif block.pairwise == "dot_product":
            f = linear(block.phi, keys) @ linear(block.theta, cell)
        else:
            f = (linear(block.phi, keys) @ linear(block.theta, cell) / math.sqrt(C // 2)).exp()
        total = len(keys) if block.pairwise == "dot_product" else f.sum()
        y = linear(block.output, (f[:, None] * linear(block.g, keys)).sum(0) / total)
        y = (y - norm.running_mean) / (norm.running_var + norm.eps).sqrt() * norm.weight + norm.bias
        results.append(y + cell)
    return torch.stack(results, dim=1).view(C, H, W)


@pytest.mark.parametrize(
    ("pairwise", "subsampling", "size"),
    [("embedded_gaussian", True, (5, 3)), ("gaussian", True, (4, 6)), ("dot_product", False, (3, 4))],
)
def test_block_matches_the_equations(pairwise, subsampling, size):
    block = NonLocalBlock(6, pairwise, subsampling).double().eval()
    randomise(block)
    x = torch.randn(2, 6, *size, dtype=torch.float64)
    for image, found in zip(x, block(x), strict=True):
        torch.testing.assert_close(found, block_by_hand(block, image))
    assert torch.equal(NonLocalBlock(6).double().train()(x), x)  # at first


@pytest.mark.parametrize(
    ("blocks", "depth", "expected"),
    [
        (1, 50, ["3_4"]),  # before the last of 6 in res4
        (5, 50, ["2_1", "2_3", "3_1", "3_3", "3_5"]),
        (5, 101, ["2_1", "2_3", "3_6", "3_13", "3_20"]),
        (10, 50, ["2_0", "2_1", "2_2", "2_3", "3_0", "3_1", "3_2", "3_3", "3_4", "3_5"]),
    ],
)
def test_positions_are_the_authors(blocks, depth, expected):
    with torch.device("meta"):
        resnet = AttentionResNet(depth, non_local=NonLocal(blocks))
    assert list(resnet.inserted) == expected


def test_each_block_follows_its_residual_block():
    resnet = AttentionResNet(26, 0.125, non_local=NonLocal(1)).eval()
    order = []
    for name in ("layer3.2", "inserted.3_2", "layer3.3"):
        resnet.get_submodule(name).register_forward_hook(lambda *_, name=name: order.append(name))
    resnet(torch.randn(1, 3, 32, 32))
    assert order == ["layer3.2", "inserted.3_2", "layer3.3"]
