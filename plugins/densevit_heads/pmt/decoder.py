"""The parts of PMT's decoder: lateral connections from the backbone's tokens, and blocks with rotary positions."""

import torch
from torch import Tensor, nn

from densevit.layers.attention import attention
from densevit.layers.mlp import FeedForward
from densevit.layers.norms import SyncBatchNorm2d
from densevit.layers.rotary import rotate


class Lateral(nn.Module):
    """A lateral connection: batch norm, an MLP with a residual connection, and a learned factor for each channel."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = SyncBatchNorm2d(width)
        self.mlp = FeedForward(width, width // 2)
        self.scale = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, C) -> (B, N, C)."""
        x = self.norm(x.transpose(1, 2)).transpose(1, 2)
        return (x + self.mlp(x)) * self.scale


class RotaryBlock(nn.Module):
    """A block as DINOv3's (Siméoni et al. 2025), with an MLP as wide as the tokens and layer scale from 1."""

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attention = RotaryAttention(width, num_heads)
        self.scale1 = nn.Parameter(torch.ones(width))
        self.norm2 = nn.LayerNorm(width)
        self.mlp = FeedForward(width, width)
        self.scale2 = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor, bias: Tensor | None, rotation: Tensor) -> Tensor:
        """x: (B, N, C). bias: added to the scores, (B, 1, N, N). rotation: the table for `rotate`."""
        x = x + self.attention(self.norm1(x), bias, rotation) * self.scale1
        return x + self.mlp(self.norm2(x)) * self.scale2


class RotaryAttention(nn.Module):
    """Multi-head self-attention with rotated queries and keys, and no bias for keys."""

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads, self.attention = num_heads, attention
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width, bias=False)
        self.value = nn.Linear(width, width)
        self.output = nn.Linear(width, width)

    def forward(self, x: Tensor, bias: Tensor | None, rotation: Tensor) -> Tensor:
        """(B, N, C) -> (B, N, C)."""
        query, key, value = (
            layer(x).unflatten(2, (self.num_heads, -1)).transpose(1, 2) for layer in (self.query, self.key, self.value)
        )  # (B, heads, N, D)
        rotation, bias = rotation.to(value.dtype), None if bias is None else bias.to(value.dtype)
        x = self.attention(rotate(query, rotation), rotate(key, rotation), value, bias)
        return self.output(x.transpose(1, 2).flatten(2))
