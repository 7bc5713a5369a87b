"""The blocks of plain vision transformers."""

from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from densevit.layers.attention import attention
from densevit.layers.drop_path import DropPath
from densevit.layers.mlp import FeedForward
from densevit.layers.rotary import rotate
from densevit.layers.windows import window_partition, window_reverse
from densevit_backbones.vit.positions import RelativePositionBias

EPS = 1e-6  # of all layer norms, as in published weights before DINOv3
Gelu = Literal["erf", "tanh"]
"""x * Phi(x) with the error function, or the approximation by tanh (Hendrycks and Gimpel 2016, section 2)."""


class Block(nn.Module):
    """Pre-norm attention and MLP, each with a residual connection (ViT, equations 2 and 3).

    window: the side of attention windows in cells; None for global attention. The last windows of a row or column are
    padded with zeros after the norm (ViTDet, Li et al. 2022, section 3). Class, distillation and register tokens are
    not part of windows: windowed attention does not change them, the MLP does.
    """

    def __init__(
        self,
        width: int,
        window: int | None,
        position_bias: RelativePositionBias | None,
        attention: "Attention",
        mlp: nn.Module,
        layer_scale: float | None,
        drop_path: float,
        eps: float,
    ) -> None:
        super().__init__()
        self.window = window
        self.position_bias = position_bias
        self.norm1 = nn.LayerNorm(width, eps)
        self.attention = attention
        self.scale1 = None if layer_scale is None else LayerScale(width, layer_scale)
        self.norm2 = nn.LayerNorm(width, eps)
        self.mlp = mlp
        self.scale2 = None if layer_scale is None else LayerScale(width, layer_scale)
        self.drop_path = DropPath(drop_path)

    def forward(
        self, x: Tensor, grid: tuple[int, int], rotation: Tensor | None = None, bias: Tensor | None = None
    ) -> Tensor:
        """x: (B, P + H * W, C), P tokens that are no cells, then the cells of the grid (H, W) row by row.

        rotation: the table for `rotate`, of all tokens, or of the cells of one window in a windowed block. bias: added
        to the scores of global attention, (B, 1, N, N).
        """
        branch, first = self.norm1(x), x.shape[1] - grid[0] * grid[1]
        if self.window is None:
            if self.position_bias is not None:
                positions = self.position_bias(grid, first)
                bias = positions if bias is None else positions + bias
            branch = self._scaled(self.attention(branch, rotation, bias), self.scale1)
            x = x + self.drop_path(branch)
        else:
            branch = self._in_windows(branch[:, first:], self.window, grid, rotation)
            branch = self.drop_path(self._scaled(branch, self.scale1))
            x = x + branch if first == 0 else torch.cat([x[:, :first], x[:, first:] + branch], dim=1)
        return x + self.drop_path(self._scaled(self.mlp(self.norm2(x)), self.scale2))

    def _in_windows(self, cells: Tensor, window: int, grid: tuple[int, int], rotation: Tensor | None) -> Tensor:
        """(B, N, C) -> (B, N, C)."""
        H, W = grid
        x = F.pad(cells.unflatten(1, grid), (0, 0, 0, -W % window, 0, -H % window))  # (B, H, W, C)
        height, width = x.shape[1:3]
        bias = None if self.position_bias is None else self.position_bias((window, window))
        x = self.attention(window_partition(x, window), rotation, bias)
        return window_reverse(x, window, height, width)[:, :H, :W].flatten(1, 2)

    @staticmethod
    def _scaled(branch: Tensor, scale: nn.Module | None) -> Tensor:
        return branch if scale is None else scale(branch)


class Attention(nn.Module):
    """Multi-head self-attention (ViT, appendix A), optionally with normalised or rotated queries and keys.

    qk_norm: a layer norm over each head's channels of queries and keys (ViT-22B, Dehghani et al. 2023, section 2).
    key_bias: whether keys have a bias.
    """

    def __init__(self, width: int, num_heads: int, qk_norm: bool = False, key_bias: bool = True) -> None:
        super().__init__()
        self.num_heads, self.attention = num_heads, attention
        self.qkv = nn.Linear(width, 3 * width) if key_bias else WithoutKeyBias(width, 3 * width)
        self.query_norm = nn.LayerNorm(width // num_heads, EPS) if qk_norm else None
        self.key_norm = nn.LayerNorm(width // num_heads, EPS) if qk_norm else None
        self.output = nn.Linear(width, width)

    def forward(self, x: Tensor, rotation: Tensor | None = None, bias: Tensor | None = None) -> Tensor:
        """(B, N, C) -> (B, N, C). bias: added to the scores, broadcast to (B, heads, N, N)."""
        B, N, C = x.shape
        qkv = self.qkv(x).view(B, N, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4)
        if not qkv.is_cuda:  # one copy instead of three, for query, key and value; a GPU's kernel needs no copy
            qkv = qkv.contiguous()
        query, key, value = qkv.unbind(0)  # (B, heads, N, D)
        if self.query_norm is not None and self.key_norm is not None:
            query, key = self.query_norm(query).to(value.dtype), self.key_norm(key).to(value.dtype)
        if rotation is not None:
            rotation = rotation.to(value.dtype)
            query, key = rotate(query, rotation), rotate(key, rotation)
        bias = None if bias is None else bias.to(value.dtype)
        return self.output(self.attention(query, key, value, bias).transpose(1, 2).reshape(B, N, C))


class WithoutKeyBias(nn.Linear):
    """The projection to queries, keys and values, (3C, C), without a bias for keys (DINOv3)."""

    def forward(self, x: Tensor) -> Tensor:
        """(..., C) -> (..., 3C)."""
        query, key, value = self.bias.chunk(3)
        return F.linear(x, self.weight, torch.cat([query, torch.zeros_like(key), value]))


class LayerScale(nn.Module):
    """A learned factor for each channel of a residual branch (CaiT, Touvron et al. 2021, section 2)."""

    def __init__(self, width: int, start: float) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.full((width,), start))

    def forward(self, x: Tensor) -> Tensor:
        """x: (..., C), the output of a residual branch. Returns the scaled x."""
        return x * self.scale.to(x.dtype)


def create_mlp(width: int, swiglu: bool, gelu: Gelu) -> nn.Module:
    """The MLP of a block, four times as wide, or gated."""
    activation = nn.GELU if gelu == "erf" else partial(nn.GELU, approximate="tanh")
    return SwiGLU(width) if swiglu else FeedForward(width, 4 * width, activation)


class SwiGLU(nn.Module):
    """A gated MLP with about as many weights as the plain MLP (Shazeer 2020; as wide as in DINOv2)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        hidden = -(-(8 * width // 3) // 8) * 8  # two thirds of the plain MLP's width, rounded up to a multiple of 8
        self.expand = nn.Linear(width, 2 * hidden)
        self.contract = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        """(..., C) -> (..., C)."""
        gate, value = self.expand(x).chunk(2, dim=-1)
        return self.contract(F.silu(gate) * value)


class ProjectReadout(nn.Module):
    """Concatenates the class token to each cell, then a linear layer and a GELU (DPT, equation 4)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.projection = nn.Linear(2 * width, width)

    def forward(self, cells: Tensor, token: Tensor) -> Tensor:
        """cells: (B, N, C). token: (B, 1, C). Returns (B, N, C)."""
        cell_weight, token_weight = self.projection.weight.chunk(2, dim=1)  # avoids the concatenation
        return F.gelu(F.linear(cells, cell_weight) + F.linear(token, token_weight, self.projection.bias))
