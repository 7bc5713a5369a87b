"""Multi-Scale Vision Longformer (ViL, Zhang et al. 2021): attention of cells to their window, its 8 neighbours and
global tokens."""

import math
from typing import Literal, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from densevit.interfaces import Backbone
from densevit.layers import checkpointing as activation_checkpointing
from densevit.layers.attention import attention
from densevit.layers.drop_path import DropPath
from densevit.layers.initial_weights import truncated_normal
from densevit.layers.mlp import FeedForward
from densevit.layers.table_cache import cached_table
from densevit.layers.tracing import is_exporting
from densevit.set_prediction.limits import check_counts
from densevit_papers.parameters import stage_depths
from densevit_papers.plain_vit import as_map

EPS = 1e-6  # of the layer norms
PATCHES = (4, 2, 2, 2)  # side of the patches of a stage, in pixels or in cells of the stage before
_EXPANSION = 4  # of the MLPs


class Variant(NamedTuple):
    """The channels, heads and blocks of each stage."""

    widths: tuple[int, ...]
    heads: tuple[int, ...]
    blocks: tuple[int, ...]


_DEEP = ((96, 192, 384, 768), (3, 3, 6, 12))
VARIANTS = {
    "nano": Variant((32, 64, 128, 256), (1, 2, 4, 8), (1, 1, 2, 1)),
    "tiny": Variant((48, 96, 192, 384), (1, 3, 3, 6), (1, 1, 9, 1)),
    "small": Variant(*_DEEP, (1, 2, 8, 1)),
    "medium": Variant(*_DEEP, (1, 4, 16, 1)),
    "medium_wide": Variant((192, 384, 512, 768), (3, 6, 8, 12), (1, 2, 8, 1)),
    "base": Variant(*_DEEP, (1, 8, 24, 1)),
    "base_wide": Variant((192, 384, 768, 1024), (3, 6, 12, 16), (1, 2, 8, 1)),
}


class VisionLongformer(Backbone):
    """ViL with relative positions: features of strides 4, 8, 16 and 32, without a norm as in the authors' detectors.

    A cell attends to the 3 x 3 windows around it (the sliding chunks of the authors' code, without random shifts) and
    to the global tokens of its stage, which attend to all tokens. A map of at most two windows a side uses full
    attention, with the same result: in the classifiers of 224 x 224 pixels every stage from stride 16 on.

    Any input size; each map is ceil(size / stride): before patches, maps are padded with zeros at the right and the
    bottom to a multiple of the patch. Windows may reach over the border; cells outside of the map are masked. If an
    image is padded further, its features change through the global tokens and near the border.

    variant: "tiny", "small", "medium" (Medium-Deep), "base" (Base-Deep), "medium_wide" and "base_wide" of the paper's
        table 2; "nano" is for CPUs.
    window_size: the side of a window in cells.
    global_tokens: the number of global tokens in the first three stages. The last stage has none, as in the authors'
        models.
    drop_path: stochastic depth of the last block, linear from 0 at the first.
    gradient_checkpointing: activation checkpointing per block in training.
    in_channels: the number of channels of images.
    """

    def __init__(
        self,
        variant: Literal["nano", "tiny", "small", "medium", "medium_wide", "base", "base_wide"] = "tiny",
        window_size: int = 7,
        global_tokens: int = 1,
        drop_path: float = 0.1,
        gradient_checkpointing: bool = False,
        in_channels: int = 3,
    ) -> None:
        super().__init__()
        check_counts({"window_size": window_size})
        check_counts({"global_tokens": global_tokens}, 0)
        widths, heads, counts = VARIANTS[variant]
        self.channels, self.strides = widths, (4, 8, 16, 32)
        self.gradient_checkpointing = gradient_checkpointing
        rates = iter([drop_path * i / (sum(counts) - 1) for i in range(sum(counts))])
        self.stages = nn.ModuleList()
        for i, width in enumerate(widths):
            blocks = [
                Block(width, heads[i], window_size, global_tokens if i < 3 else 0, next(rates))
                for _ in range(counts[i])
            ]
            self.stages.append(
                Stage(
                    in_channels if i == 0 else widths[i - 1], width, PATCHES[i], global_tokens if i < 3 else 0, blocks
                )
            )

    def forward(self, images: Tensor) -> list[Tensor]:
        x, features = images, []
        for stage in self.stages:
            x = stage(x, self.gradient_checkpointing and self.training)
            features.append(x)
        return features

    def parameter_depths(self) -> list[list[nn.Parameter]]:
        """Groups: the first patches, and each block, with the patches before it."""
        stages = (cast(Stage, stage) for stage in self.stages)
        return stage_depths((stage.patch_parameters(), stage.blocks, []) for stage in stages)


class Stage(nn.Module):
    """Patches with a norm, global tokens of this stage, and blocks."""

    def __init__(self, inputs: int, width: int, patch: int, tokens: int, blocks: list["Block"]) -> None:
        super().__init__()
        self.patch = patch
        self.projection = nn.Conv2d(inputs, width, patch, stride=patch)
        self.norm = nn.LayerNorm(width, EPS)
        self.tokens = nn.Parameter(torch.zeros(tokens, width)) if tokens else None
        if self.tokens is not None:
            nn.init.trunc_normal_(self.tokens, std=0.02)
        self.blocks = nn.ModuleList(blocks)

    def patch_parameters(self) -> list[nn.Parameter]:
        """The parameters before the blocks."""
        tokens = [] if self.tokens is None else [self.tokens]
        return [*self.projection.parameters(), *self.norm.parameters(), *tokens]

    def forward(self, x: Tensor, checkpointed: bool) -> Tensor:
        """(B, C, H, W) -> (B, width, ceil(H / patch), ceil(W / patch))."""
        H, W = x.shape[2:]
        x = self.projection(F.pad(x, (0, -W % self.patch, 0, -H % self.patch)))
        grid = (x.shape[2], x.shape[3])
        x = self.norm(x.flatten(2).transpose(1, 2))  # (B, H * W, C)
        first = 0
        if self.tokens is not None:
            first = len(self.tokens)
            x = torch.cat([self.tokens.to(x.dtype).expand(x.shape[0], -1, -1), x], dim=1)
        for block in self.blocks:
            x = activation_checkpointing.run(block, x, grid, checkpointed=checkpointed)
        return as_map(x[:, first:], grid)


class Block(nn.Module):
    """Vision Longformer attention and MLP, each after a norm."""

    def __init__(self, width: int, num_heads: int, window: int, tokens: int, drop_path: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, EPS)
        self.attention = LongformerAttention(width, num_heads, window, tokens)
        self.norm2 = nn.LayerNorm(width, EPS)
        self.mlp = FeedForward(width, _EXPANSION * width)
        self.drop_path = DropPath(drop_path)
        self.apply(truncated_normal)

    def forward(self, x: Tensor, grid: tuple[int, int]) -> Tensor:
        """x: (B, P + H * W, C), P global tokens first. grid: (H, W)."""
        x = x + self.drop_path(self.attention(self.norm1(x), grid))
        return x + self.drop_path(self.mlp(self.norm2(x)))


class LongformerAttention(nn.Module):
    """Attention of cells to 3 x 3 windows and global tokens, and of global tokens to all (section 3.2).

    Global tokens use the projections of the cells, as in the authors' models. Scores have a learned bias per head and
    offset of two cells, at most 2 w - 1 rows and columns for windows of w, and a bias for each global token.
    """

    def __init__(self, width: int, num_heads: int, window: int, tokens: int) -> None:
        super().__init__()
        self.num_heads, self.window, self.num_tokens = num_heads, window, tokens
        self.attention = attention
        self.qkv = nn.Linear(width, 3 * width)
        self.output = nn.Linear(width, width)
        self.offset_bias = nn.Parameter(torch.zeros((4 * window - 1) ** 2, num_heads))
        nn.init.trunc_normal_(self.offset_bias, std=0.02)
        self.token_bias: nn.Parameter | None = None
        if tokens:  # from the token to cells, from cells to the token, and from each token to the token
            self.token_bias = nn.Parameter(torch.zeros(2 + tokens, num_heads, tokens))
            nn.init.trunc_normal_(self.token_bias, std=0.02)

    def forward(self, x: Tensor, grid: tuple[int, int]) -> Tensor:
        """x: (B, P + H * W, C), P global tokens first. grid: (H, W). Returns the shape of x."""
        B, N, C = x.shape
        H, W = grid
        P, heads = self.num_tokens, self.num_heads
        qkv = self.qkv(x)
        query, key, value = qkv.view(B, N, 3, heads, C // heads).permute(2, 0, 3, 1, 4).unbind(0)  # (B, heads, N, D)
        if not is_exporting() and max(H, W) <= 2 * self.window:  # an exported graph is for all sizes
            bias = torch.cat([self._bias_of_tokens(H * W), self._bias_of_cells(grid, grid)], dim=1)
            result = self.attention(query, key, value, bias.to(query.dtype)).transpose(1, 2).reshape(B, N, C)
            return self.output(result)
        cells = self._in_windows(qkv[:, P:].view(B, H, W, 3 * C), key[:, :, :P], value[:, :, :P])  # (B, H, W, C)
        result = cells.reshape(B, H * W, C)
        if P:
            tokens = self.attention(query[:, :, :P], key, value, self._bias_of_tokens(H * W).to(query.dtype))
            result = torch.cat([tokens.transpose(1, 2).reshape(B, P, C), result], dim=1)
        return self.output(result)

    def _in_windows(self, qkv: Tensor, token_key: Tensor, token_value: Tensor) -> Tensor:
        """qkv: (B, H, W, 3C), of cells. token_key, token_value: (B, heads, P, D). Returns (B, H, W, C)."""
        B, H, W, channels = qkv.shape
        w, heads = self.window, self.num_heads
        rows, columns = (H + w - 1) // w, (W + w - 1) // w
        x = F.pad(qkv, (0, 0, 0, columns * w - W, 0, rows * w - H))
        x = x.view(B, rows, w, columns, w, 3, heads, channels // (3 * heads)).permute(5, 0, 1, 3, 6, 2, 4, 7)
        query, key, value = x.flatten(5, 6).unbind(0)  # (B, rows, columns, heads, w * w, D)
        key, value = (
            _with_neighbours(x, tokens[:, None, None].expand(-1, rows, columns, -1, -1, -1))
            for x, tokens in ((key, token_key), (value, token_value))
        )  # (B, rows, columns, heads, P + 9 * w * w, D)
        outside = cached_table(_outside, (H, W), w, qkv.device)  # (rows, columns, 9 * w * w)
        outside = F.pad(outside, (self.num_tokens, 0))[:, :, None, None]
        bias = self._bias_of_cells((w, w), (3 * w, 3 * w)) + outside  # (rows, columns, heads, w * w, P + 9 * w * w)
        query, key, value = (x.flatten(1, 3) for x in (query, key, value))  # 4-d, which fused kernels need
        x = self.attention(query, key, value, bias.to(query.dtype).flatten(0, 2))
        x = x.view(B, rows, columns, heads, w, w, channels // (3 * heads)).permute(0, 1, 4, 2, 5, 3, 6)
        return x.reshape(B, rows * w, columns * w, channels // 3)[:, :H, :W]

    def _bias_of_tokens(self, cells: int) -> Tensor:
        """(heads, P, P + cells): of scores of global tokens."""
        if self.token_bias is None:
            return self.offset_bias.new_zeros(self.num_heads, 0, cells)
        to_token = self.token_bias[2:].transpose(0, 1)  # (heads, P, P)
        return torch.cat([to_token, self.token_bias[0, :, :, None].expand(-1, -1, cells)], dim=2)

    def _bias_of_cells(self, queries: tuple[int, int], keys: tuple[int, int]) -> Tensor:
        """(heads, h * w, P + h' * w'): of scores of a map h x w of cells, with h' x w' around the same centre.

        Keys are in row-major order; keys of 3 x 3 windows window by window.
        """
        w = self.window
        table = self.offset_bias.unflatten(0, (4 * w - 1, 4 * w - 1))
        for axis, (query_side, key_side) in enumerate(zip(queries, keys, strict=True)):
            table = table.narrow(axis, (4 * w - query_side - key_side) // 2, query_side + key_side - 1)
        # The offset of query row i and key row j is at i + (keys - 1 - j): the keys from row i on, in reverse order.
        bias = table.unfold(0, keys[0], 1).unfold(1, keys[1], 1).flip(3, 4)  # (h, w, heads, h', w')
        if queries != keys:
            bias = bias.unflatten(4, (3, w)).unflatten(3, (3, w)).transpose(4, 5)  # (h, w, heads, 3, 3, w, w)
        bias = bias.flatten(3).permute(2, 0, 1, 3).flatten(1, 2)
        if self.token_bias is None:
            return bias
        return torch.cat([self.token_bias[1, :, None].expand(-1, bias.shape[1], -1), bias], dim=2)


def _with_neighbours(x: Tensor, tokens: Tensor | None = None) -> Tensor:
    """The tokens, then the cells of the 3 x 3 windows around each window, window by window; zeros beyond the border.

    x: (..., rows, columns, heads, w * w, D). tokens: (..., rows, columns, heads, P, D).
    """
    rows, columns = x.shape[-5:-3]
    x = F.pad(x, (0, 0, 0, 0, 0, 0, 1, 1, 1, 1))
    windows = [] if tokens is None else [tokens]
    windows += [x[..., i : i + rows, j : j + columns, :, :, :] for i in range(3) for j in range(3)]
    return torch.cat(windows, dim=-2)


def _outside(size: tuple[int, int], window: int, device: torch.device) -> Tensor:
    """(rows, columns, 9 * w * w): -inf for cells around a window that are outside of a map of `size`, else 0."""
    (H, W), w = size, window
    inside = F.pad(torch.ones(size, device=device), (0, -W % w, 0, -H % w))
    inside = inside.view((H + w - 1) // w, w, (W + w - 1) // w, w).transpose(1, 2).flatten(2)
    inside = _with_neighbours(inside[:, :, None, :, None])[:, :, 0, :, 0]
    return torch.zeros_like(inside).masked_fill(inside == 0, -math.inf)
