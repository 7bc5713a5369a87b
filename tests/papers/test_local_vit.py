"""LocalViT beside its equations, one cell at a time."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from densevit_papers.local_vit import Block, EfficientChannelAttention
from tests.papers.small_models import randomise


def normalised(norm: nn.BatchNorm2d, x: torch.Tensor) -> torch.Tensor:
    """Batch norm of cells (..., C) with its statistics."""
    return (x - norm.running_mean) / (norm.running_var + norm.eps).sqrt() * norm.weight + norm.bias


def hswish(x: torch.Tensor) -> torch.Tensor:
    return x * (x + 3).clamp(0, 6) / 6


def block_by_hand(block: Block, x: torch.Tensor, grid: tuple[int, int], activation: str) -> torch.Tensor:
    """One image (1 + H * W, C): heads one at a time, the depthwise convolution cell by cell."""
    mlp, heads = block.mlp, block.attention.num_heads
    y = F.layer_norm(x, x.shape[-1:], block.norm.weight, block.norm.bias, 1e-6)
    parts = (
        layer(y).chunk(heads, dim=-1) for layer in (block.attention.query, block.attention.key, block.attention.value)
    )
    mixed = [(q @ k.T / math.sqrt(q.shape[-1])).softmax(-1) @ v for q, k, v in zip(*parts, strict=True)]
    x = x + block.attention.output(torch.cat(mixed, dim=-1))

    (H, W), act = grid, (lambda x: x.clamp(0, 6)) if activation == "relu6" else hswish
    wide = act(normalised(mlp.expand_norm, x[1:] @ mlp.expand.weight[:, :, 0, 0].T)).view(H, W, -1)
    local = torch.zeros_like(wide)
    for i in range(H):
        for j in range(W):
            for di in (-1, 0, 1):
                for dj in (-1, 0, 1):
                    if 0 <= i + di < H and 0 <= j + dj < W:
                        local[i, j] += mlp.depthwise.weight[:, 0, di + 1, dj + 1] * wide[i + di, j + dj]
    local = act(normalised(mlp.depthwise_norm, local))
    means = local.mean((0, 1))
    if activation == "hswish_se":
        hidden = (mlp.gate.fc1.weight[:, :, 0, 0] @ means + mlp.gate.fc1.bias).relu()
        local = local * ((mlp.gate.fc2.weight[:, :, 0, 0] @ hidden + mlp.gate.fc2.bias + 3).clamp(0, 6) / 6)
    elif activation == "hswish_eca":
        kernel = mlp.gate.convolution.weight[0, 0]
        half = len(kernel) // 2
        padded = torch.cat([means.new_zeros(half), means, means.new_zeros(half)])
        local = local * (padded.unfold(0, len(kernel), 1) @ kernel).sigmoid()
    branch = normalised(mlp.contract_norm, local.flatten(0, 1) @ mlp.contract.weight[:, :, 0, 0].T)
    return torch.cat([x[:1], x[1:] + branch])


@pytest.mark.parametrize("activation", ["relu6", "hswish", "hswish_eca", "hswish_se"])
def test_a_block_matches_the_equations(activation):
    torch.manual_seed(0)
    block = Block(12, 3, activation, 12, 0.1).double().eval()
    randomise(block)
    x = torch.randn(2, 1 + 3 * 4, 12, dtype=torch.float64)
    for image, found in zip(x, block(x, (3, 4)), strict=True):
        torch.testing.assert_close(found, block_by_hand(block, image, (3, 4), activation))


@pytest.mark.parametrize(("channels", "size"), [(64, 3), (768, 5), (8192, 7)])
def test_kernel_of_channel_attention(channels, size):
    """As the authors' code: |(log2 C + 1) / 2| rounded down, one more if that is even."""
    assert EfficientChannelAttention(channels).convolution.kernel_size == (size,)
