"""Swin Transformer (Liu et al. 2021): attention in windows that shift from block to block."""

from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from densevit.interfaces import Backbone
from densevit.layers.attention import attention
from densevit.layers.drop_path import DropPath
from densevit.layers.mlp import FeedForward
from densevit.layers.windows import merge, partition, relative_position_index, shift_mask


class _Variant(NamedTuple):
    width: int
    blocks: tuple[int, ...]
    heads: tuple[int, ...]
    drop_path: float


_VARIANTS = {
    "nano": _Variant(32, (1, 1, 3, 1), (1, 2, 4, 8), 0.0),
    "tiny": _Variant(96, (2, 2, 6, 2), (3, 6, 12, 24), 0.2),
    "small": _Variant(96, (2, 2, 18, 2), (3, 6, 12, 24), 0.3),
    "base": _Variant(128, (2, 2, 18, 2), (4, 8, 16, 32), 0.5),
    "large": _Variant(192, (2, 2, 18, 2), (6, 12, 24, 48), 0.2),
}


class Swin(Backbone):
    """Swin Transformer: features of strides 4, 8, 16 and 32, each through a layer norm of its own.

    Any input size; each map is ceil(size / stride). A block pads its map to whole windows with zeros after its norm,
    and attention sees those zeros, as in the published detectors. What lies right of a picture and below it therefore
    changes its features: up to the first shifted block only in windows that reach over its border, then further in.

    variant: "tiny", "small", "base" and "large" of the paper's section 3.3; "nano" (32 channels, 6 blocks) is for CPUs.
    window_size: 7 for the paper's 224-pixel models, 12 for its 384-pixel ones.
    stem: "patch", the paper's projection of 4x4 pixels, or "conv": four 3x3 convolutions with batch norm, two of
        them of stride 2, and a 1x1, with which a transformer learns sooner from random weights (Xiao et al. 2021,
        section 4).
    drop_path: the last block's stochastic depth, rising linearly from 0 at the first; None: the paper's for ImageNet.
    """

    def __init__(
        self,
        variant: Literal["nano", "tiny", "small", "base", "large"] = "tiny",
        window_size: int = 7,
        stem: Literal["patch", "conv"] = "patch",
        drop_path: float | None = None,
    ) -> None:
        super().__init__()
        width, blocks, heads, default_drop = _VARIANTS[variant]
        last_rate = default_drop if drop_path is None else drop_path
        self.channels = tuple(width * 2**i for i in range(4))
        self.strides = (4, 8, 16, 32)
        self.patch_embed = nn.Conv2d(3, width, 4, stride=4) if stem == "patch" else _conv_stem(width)
        self.patch_norm = nn.LayerNorm(width)
        self.stages = nn.ModuleList()
        for i, channels in enumerate(self.channels):
            stage: list[nn.Module] = [] if i == 0 else [PatchMerging(channels // 2)]
            for j in range(blocks[i]):
                rate = last_rate * (sum(blocks[:i]) + j) / (sum(blocks) - 1)
                stage.append(SwinBlock(channels, heads[i], window_size, shifted=j % 2 == 1, drop_path=rate))
            self.stages.append(nn.Sequential(*stage))
        self.feature_norms = nn.ModuleList(nn.LayerNorm(channels) for channels in self.channels)
        self.apply(_initialise)

    def forward(self, images: Tensor) -> list[Tensor]:
        H, W = images.shape[-2:]
        x = self.patch_embed(F.pad(images, (0, -W % 4, 0, -H % 4)))
        x = self.patch_norm(x.permute(0, 2, 3, 1))  # (B, H, W, C) from here on
        features = []
        for stage, norm in zip(self.stages, self.feature_norms, strict=True):
            x = stage(x)
            features.append(norm(x).permute(0, 3, 1, 2))
        return features

    def parameter_depths(self) -> list[list[nn.Parameter]]:
        patches = [*self.patch_embed.parameters(), *self.patch_norm.parameters()]
        blocks = [list(block.parameters()) for stage in self.stages for block in stage.children()]
        return [patches, *blocks, list(self.feature_norms.parameters())]


class PatchMerging(nn.Module):
    """Joins 2x2 neighbours into one token of twice the channels (section 3.1)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(4 * channels)
        self.reduction = nn.Linear(4 * channels, 2 * channels, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) -> (B, ceil(H / 2), ceil(W / 2), 2 C)."""
        x = F.pad(x, (0, 0, 0, x.shape[2] % 2, 0, x.shape[1] % 2))
        B, H, W, C = x.shape
        x = x.view(B, H // 2, 2, W // 2, 2, C)
        x = x.permute(0, 1, 3, 4, 2, 5).flatten(3)  # columns before rows, as published weights have it
        return self.reduction(self.norm(x))


class SwinBlock(nn.Module):
    """Attention in windows, then a perceptron, each with its residual (equation 3)."""

    def __init__(self, channels: int, num_heads: int, window: int, shifted: bool, drop_path: float) -> None:
        super().__init__()
        self.window, self.shifted = window, shifted
        self.norm1 = nn.LayerNorm(channels)
        self.attention = WindowAttention(channels, num_heads, window)
        self.norm2 = nn.LayerNorm(channels)
        self.mlp = FeedForward(channels, 4 * channels)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) -> (B, H, W, C)."""
        x = x + self.drop_path(self._attend(self.norm1(x)))
        return x + self.drop_path(self.mlp(self.norm2(x)))

    def _attend(self, x: Tensor) -> Tensor:
        _, H, W, _ = x.shape
        M = self.window
        x = F.pad(x, (0, 0, 0, -W % M, 0, -H % M))
        padded_height, padded_width = x.shape[1:3]
        # A map of one window has nothing to exchange with, so that axis does not shift.
        shift = tuple(M // 2 if self.shifted and size > M else 0 for size in (padded_height, padded_width))
        mask = None
        if any(shift):
            x = x.roll((-shift[0], -shift[1]), dims=(1, 2))
            mask = shift_mask(padded_height, padded_width, M, (shift[0], shift[1]), x.device)
        windows = self.attention(partition(x, M), mask)
        x = merge(windows, M, padded_height, padded_width)
        if any(shift):
            x = x.roll(shift, dims=(1, 2))
        return x[:, :H, :W]


class WindowAttention(nn.Module):
    """Attention inside windows with a learned bias for each offset of two tokens (equation 4)."""

    relative_position_index: Tensor

    def __init__(self, channels: int, num_heads: int, window: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(channels, 3 * channels)
        self.output = nn.Linear(channels, channels)
        self.relative_position_bias_table = nn.Parameter(torch.zeros((2 * window - 1) ** 2, num_heads))
        nn.init.trunc_normal_(self.relative_position_bias_table, std=0.02)
        self.register_buffer("relative_position_index", relative_position_index(window).flatten(), persistent=False)

    def forward(self, windows: Tensor, mask: Tensor | None = None) -> Tensor:
        """windows: (B * windows, N, C). mask: (windows, N, N), added to the scores. Returns (B * windows, N, C)."""
        count, N, C = windows.shape
        qkv = self.qkv(windows).view(count, N, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4)
        query, key, value = qkv.unbind(0)  # (B * windows, heads, N, D)
        bias = self.relative_position_bias_table[self.relative_position_index].view(N, N, -1).permute(2, 0, 1)
        bias = bias.to(query.dtype)
        if mask is None:
            mixed = attention(query, key, value, bias)
        else:  # windows and heads in one dimension, so that the mask is read and not copied for each image
            bias = (bias + mask[:, None].to(bias.dtype)).flatten(0, 1)  # (windows * heads, N, N)
            query, key, value = (x.unflatten(0, (-1, len(mask))).flatten(1, 2) for x in (query, key, value))
            mixed = attention(query, key, value, bias).unflatten(1, (len(mask), -1)).flatten(0, 1)
        return self.output(mixed.transpose(1, 2).reshape(count, N, C))


def _conv_stem(width: int) -> nn.Module:
    layers: list[nn.Module] = []
    for inputs, outputs, stride in (
        (3, width // 2, 2),
        (width // 2, width // 2, 1),
        (width // 2, width, 2),
        (width, width, 1),
    ):
        conv = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
        layers += [conv, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers, nn.Conv2d(width, width, 1))


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
