"""LocalViT beside its equations."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from densevit_papers.local_vit import Block
from tests.random_weights import randomise


def normalised(norm: nn.BatchNorm2d, x: torch.Tensor) -> torch.Tensor:
    return F.batch_norm(x, norm.running_mean, norm.running_var, norm.weight, norm.bias, eps=norm.eps)


def block_by_hand(block: Block, x: torch.Tensor, grid: tuple[int, int], activation: str) -> torch.Tensor:
    """Tokens (B, 1 + H * W, C)."""
    mlp, heads = block.mlp, block.attention.num_heads
    y = F.layer_norm(x, x.shape[-1:], block.norm.weight, block.norm.bias, 1e-6)
    layers = (block.attention.query, block.attention.key, block.attention.value)
    query, key, value = (layer(y).unflatten(2, (heads, -1)).transpose(1, 2) for layer in layers)
    x = x + block.attention.output(F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2))

    act = F.relu6 if activation == "relu6" else F.hardswish
    y = act(normalised(mlp.expand_norm, F.conv2d(x[:, 1:].mT.unflatten(2, grid), mlp.expand.weight)))
    y = F.conv2d(y, mlp.depthwise.weight, padding=1, groups=y.shape[1])
    y = act(normalised(mlp.depthwise_norm, y))
    means = y.mean((2, 3), keepdim=True)
    if activation == "hswish_se":
        hidden = F.conv2d(means, mlp.gate.fc1.weight, mlp.gate.fc1.bias).relu()
        y = y * F.hardsigmoid(F.conv2d(hidden, mlp.gate.fc2.weight, mlp.gate.fc2.bias))
    elif activation == "hswish_eca":
        kernel = mlp.gate.convolution.weight
        gate = F.conv1d(means.flatten(1)[:, None], kernel, padding=kernel.shape[2] // 2)[:, 0]
        y = y * gate.sigmoid()[..., None, None]
    branch = normalised(mlp.contract_norm, F.conv2d(y, mlp.contract.weight)).flatten(2).mT
    return torch.cat([x[:, :1], x[:, 1:] + branch], dim=1)


@pytest.mark.parametrize("activation", ["relu6", "hswish", "hswish_eca", "hswish_se"])
def test_a_block_matches_the_equations(activation):
    block = Block(12, 3, activation, 12, 0.1).double().eval()
    randomise(block)
    x = torch.randn(2, 1 + 3 * 4, 12, dtype=torch.float64)
    torch.testing.assert_close(block(x, (3, 4)), block_by_hand(block, x, (3, 4), activation))
