"""Swin Transformer (Liu et al. 2021) and Swin Transformer V2 (Liu et al. 2022): windows that shift between blocks."""

from typing import Literal

from torch import Tensor, nn
from torch.nn import functional as F

from densevit.interfaces import Backbone
from densevit.layers import checkpointing as activation_checkpointing
from densevit.layers.drop_path import DropPath
from densevit.layers.mlp import FeedForward
from densevit.layers.stem import conv_stem
from densevit.layers.windows import ShiftRule
from densevit_backbones.linear_weights import truncated_normal
from densevit_backbones.swin.attention import CosineWindowAttention, WindowAttention
from densevit_backbones.swin.variants import VARIANTS

_WINDOWS = {1: 7, 2: 8}  # of the papers' smallest images, 224 and 256 pixels


class Swin(Backbone):
    """Swin Transformer: features of strides 4, 8, 16 and 32, each with its own layer norm.

    Any input size; each map is ceil(size / stride). A block pads its map with zeros to a multiple of the window, and
    attention includes these zeros, as in the published detectors. Padding of the image at the right and bottom
    therefore changes features. Up to the first shifted block (the second of a stage) it changes only windows that cross
    the border, and none if the sides of the image's maps are multiples of the window. The first shifted block changes
    the M - M // 2 cells next to the border, and each later block of the stage changes half a window of M cells more.

    variant: "tiny", "small", "base" and "large" of the paper's section 3.3; "nano" (32 channels, 6 blocks) is for CPUs.
    version: 2 has scaled cosine attention, log-spaced positions and norms after attention and MLP.
    window_size: one for all stages or one per stage; None: 7 in version 1, 8 in version 2. The papers' models for
        larger images have 12 (384 pixels; 192 in version 2) and 16 (256). In published models of version 2, the window
        of the last stage is at most the size of its map, [16, 16, 16, 8] for example.
    pretrained_window_sizes: version 2 only: the window of each stage in pretraining, for weights used with larger
        windows; None: `window_size`. The published fine-tuned weights have [12, 12, 12, 6].
    stem: "patch", the paper's projection of 4x4 pixels, or "conv": four 3x3 convolutions with batch norm, two of
        them of stride 2, and a 1x1, with which a transformer converges faster from random weights (Xiao et al.
        2021, section 4).
    drop_path: stochastic depth of the last block, linear from 0 at the first; None: the paper's for ImageNet.
    gradient_checkpointing: activation checkpointing per block in training.
    shift: the shift on a map whose height or width is at most one window, such as the map of stride 32 for images of up
        to 224 pixels. "per_axis" does not shift that axis, as in torchvision and timm; "both_axes" shifts neither axis,
        as in the authors' code for classification; "dense" shifts both axes, as in their code for detection and
        segmentation. Larger maps do not depend on it. Published weights expect the rule of their project.
    in_channels: the number of channels of images.
    """

    def __init__(
        self,
        variant: Literal["nano", "tiny", "small", "base", "large"] = "tiny",
        version: Literal[1, 2] = 1,
        window_size: int | tuple[int, int, int, int] | None = None,
        pretrained_window_sizes: tuple[int, int, int, int] | None = None,
        stem: Literal["patch", "conv"] = "patch",
        drop_path: float | None = None,
        gradient_checkpointing: bool = False,
        shift: ShiftRule = "per_axis",
        in_channels: int = 3,
    ) -> None:
        super().__init__()
        width, blocks, heads, default_drop = VARIANTS[variant]
        last_rate = default_drop if drop_path is None else drop_path
        windows = _a_stage("window_size", _WINDOWS[version] if window_size is None else window_size)
        if version == 1 and pretrained_window_sizes is not None:
            raise ValueError(
                "pretrained_window_sizes is for version 2; the tables of version 1 are resized when weights are read."
            )
        pretrained = _a_stage("pretrained_window_sizes", pretrained_window_sizes or windows)
        self.channels = tuple(width * 2**i for i in range(4))
        self.strides = (4, 8, 16, 32)
        self.gradient_checkpointing = gradient_checkpointing
        self.patch_embed = (
            nn.Conv2d(in_channels, width, 4, stride=4) if stem == "patch" else conv_stem(width, 4, in_channels)
        )
        self.patch_norm = nn.LayerNorm(width)
        self.stages = nn.ModuleList()
        for i, channels in enumerate(self.channels):
            stage: list[nn.Module] = []
            if i > 0:
                stage.append(PatchMerging(channels // 2) if version == 1 else PatchMergingV2(channels // 2))
            for j in range(blocks[i]):
                rate = last_rate * (sum(blocks[:i]) + j) / (sum(blocks) - 1)
                arguments = channels, heads[i], windows[i], j % 2 == 1, shift
                if version == 1:
                    stage.append(SwinBlock(channels, WindowAttention(*arguments), rate))
                else:
                    stage.append(SwinV2Block(channels, CosineWindowAttention(*arguments, pretrained[i]), rate))
            self.stages.append(nn.Sequential(*stage))
        self.feature_norms = nn.ModuleList(nn.LayerNorm(channels) for channels in self.channels)
        self.apply(truncated_normal)

    def forward(self, images: Tensor) -> list[Tensor]:
        H, W = images.shape[-2:]
        x = self.patch_embed(F.pad(images, (0, -W % 4, 0, -H % 4)))
        x = self.patch_norm(x.permute(0, 2, 3, 1))  # (B, H, W, C) from here on
        features = []
        for stage, norm in zip(self.stages, self.feature_norms, strict=True):
            for block in stage.children():
                x = activation_checkpointing.run(block, x, checkpointed=self.gradient_checkpointing and self.training)
            features.append(norm(x).permute(0, 3, 1, 2))
        return features

    def parameter_depths(self) -> list[list[nn.Parameter]]:
        """Groups: the stem, each block with the patch merging before it, and the final norms."""
        depths = [[*self.patch_embed.parameters(), *self.patch_norm.parameters()]]
        for number, stage in enumerate(self.stages):
            groups = [list(part.parameters()) for part in stage.children()]
            depths += groups if number == 0 else [groups[0] + groups[1], *groups[2:]]
        return [*depths, list(self.feature_norms.parameters())]


class PatchMerging(nn.Module):
    """Merges 2x2 neighbouring tokens into one token with twice the channels (Liu et al. 2021, section 3.1)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(4 * channels)
        self.reduction = nn.Linear(4 * channels, 2 * channels, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) -> (B, ceil(H / 2), ceil(W / 2), 2 C)."""
        return self.reduction(self.norm(_neighbours(x)))


class PatchMergingV2(nn.Module):
    """Patch merging with the norm last, as in version 2."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.reduction = nn.Linear(4 * channels, 2 * channels, bias=False)
        self.norm = nn.LayerNorm(2 * channels)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) -> (B, ceil(H / 2), ceil(W / 2), 2 C)."""
        return self.norm(self.reduction(_neighbours(x)))


class SwinBlock(nn.Module):
    """Windowed attention and an MLP, each with a residual connection (Liu et al. 2021, equation 3)."""

    def __init__(self, channels: int, attention: nn.Module, drop_path: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(channels)
        self.attention = attention
        self.norm2 = nn.LayerNorm(channels)
        self.mlp = FeedForward(channels, 4 * channels)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) -> (B, H, W, C)."""
        x = x + self.drop_path(self.attention(self.norm1(x)))
        return x + self.drop_path(self.mlp(self.norm2(x)))


class SwinV2Block(SwinBlock):
    """`SwinBlock` with norms after attention and MLP ("res-post-norm", Liu et al. 2022, section 3.2).

    The norms are initialised to 1, as in torchvision; with 0, as in the paper's code, a block's parameters would get no
    gradient.
    """

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) -> (B, H, W, C)."""
        x = x + self.drop_path(self.norm1(self.attention(x)))
        return x + self.drop_path(self.norm2(self.mlp(x)))


def _neighbours(x: Tensor) -> Tensor:
    """(B, H, W, C) -> (B, ceil(H / 2), ceil(W / 2), 4 C), with zeros beyond the border."""
    B, H, W, C = x.shape
    rows, columns = (H + 1) // 2, (W + 1) // 2
    if H % 2 or W % 2:
        x = F.pad(x, (0, 0, 0, 2 * columns - W, 0, 2 * rows - H))
    x = x.view(B, rows, 2, columns, 2, C).permute(0, 1, 3, 4, 2, 5)  # columns before rows, as in published weights
    return x.reshape(B, rows, columns, 4 * C)


def _a_stage(option: str, sizes: int | tuple[int, ...]) -> tuple[int, ...]:
    sizes = (sizes,) * 4 if isinstance(sizes, int) else tuple(sizes)
    if len(sizes) != 4 or not 1 <= min(sizes) <= max(sizes) <= 1024:
        raise ValueError(f"{option} is {sizes}; expected one number of cells, 1 to 1024, per stage, for four stages.")
    return sizes
