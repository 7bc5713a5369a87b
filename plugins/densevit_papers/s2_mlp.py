"""S2-MLP (Yu et al. 2021): linear layers on single patches, and groups of channels that are shifted by one patch."""

from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from densevit.interfaces import Backbone
from densevit.layers.checkpointing import run
from densevit.layers.drop_path import DropPath
from densevit.layers.initial_weights import truncated_normal
from densevit.set_prediction.limits import check_counts
from densevit_papers.plain_vit import feature_blocks


class Variant(NamedTuple):
    """The sizes of a model of the paper."""

    width: int
    depth: int
    norm: Literal["layer", "affine"]


VARIANTS = {
    "nano": Variant(128, 8, "layer"),
    "wide": Variant(768, 12, "layer"),
    "deep": Variant(384, 36, "affine"),
}
_EXPANSION = 4


class S2Mlp(Backbone):
    """S2-MLP (Yu et al. 2021, section 3.2): features of one stride, after some of its blocks.

    Any input size: an image is padded with zeros at the right and the bottom to a multiple of `patch_size`, and each
    map is ceil(size / patch_size). Each block moves information by one patch: padding of a larger batch changes the
    adjacent patches in the first block, and one more row of patches in each further block.

    variant: "wide" or "deep" of the paper's table 2, "deep" with ResMLP's affine transformation in place of each layer
        norm (section 4.1); "nano" (128 channels, 8 blocks) is for CPUs.
    patch_size: the side of a patch in pixels; also the stride of the features.
    drop_path: stochastic depth of the last block, linear from 0 at the first. The paper states no rate; the default is
        DeiT's, whose training settings the paper adopts.
    features: the numbers, from 1, of the blocks whose outputs are the features; None: the last blocks of the four
        quarters. Blocks after the last one are not built. There is no final norm, as in the paper.
    gradient_checkpointing: activation checkpointing per block in training.
    in_channels: the number of channels of images.
    """

    def __init__(
        self,
        variant: Literal["nano", "wide", "deep"] = "deep",
        patch_size: int = 16,
        drop_path: float = 0.1,
        features: tuple[int, ...] | None = None,
        gradient_checkpointing: bool = False,
        in_channels: int = 3,
    ) -> None:
        super().__init__()
        width, depth, norm = VARIANTS[variant]
        check_counts({"patch_size": patch_size})
        features = feature_blocks(features, depth)
        self.channels, self.strides = (width,) * len(features), (patch_size,) * len(features)
        self.patch_size, self.feature_blocks, self.gradient_checkpointing = patch_size, features, gradient_checkpointing
        self.projection = nn.Conv2d(in_channels, width, patch_size, stride=patch_size)
        self.norm = normalisation(norm, width)
        rates = [drop_path * i / (depth - 1) for i in range(features[-1])]
        self.blocks = nn.ModuleList(Block(width, norm, rate) for rate in rates)
        self.apply(truncated_normal)  # as DeiT; there is no code of the authors

    def forward(self, images: Tensor) -> list[Tensor]:
        H, W = images.shape[-2:]
        x = self.projection(F.pad(images, (0, -W % self.patch_size, 0, -H % self.patch_size)))
        x = self.norm(x.permute(0, 2, 3, 1))  # (B, h, w, C)
        features = []
        for i, block in enumerate(self.blocks):
            x = run(block, x, checkpointed=self.gradient_checkpointing and self.training)
            if i + 1 in self.feature_blocks:
                features.append(x.permute(0, 3, 1, 2))
        return features

    def parameter_depths(self) -> list[list[nn.Parameter]]:
        """Groups: the patch embedding with its norm, and each block."""
        embedding = [*self.projection.parameters(), *self.norm.parameters()]
        return [embedding, *(list(block.parameters()) for block in self.blocks)]


class Block(nn.Module):
    """Two linear layers with the spatial shift before the second, then an MLP (figure 1).

    Both branches end with their norm, before the residual sum.
    """

    def __init__(self, width: int, norm: Literal["layer", "affine"], drop_path: float) -> None:
        super().__init__()
        self.before_shift, self.after_shift = nn.Linear(width, width), nn.Linear(width, width)
        self.shift_norm = normalisation(norm, width)
        self.expand, self.contract = nn.Linear(width, _EXPANSION * width), nn.Linear(_EXPANSION * width, width)
        self.mlp_norm = normalisation(norm, width)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) -> (B, H, W, C)."""
        y = self.after_shift(spatial_shift(F.gelu(self.before_shift(x))))
        x = x + self.drop_path(self.shift_norm(y))
        return x + self.drop_path(self.mlp_norm(self.contract(F.gelu(self.expand(x)))))


def spatial_shift(x: Tensor) -> Tensor:
    """Moves four groups of channels by one cell: right, left, down and up (equation 3).

    x: (B, H, W, C), C a multiple of 4. Cells at the border without a neighbour keep their values, as in equation 3. The
    paper's algorithm 1 assigns overlapping slices in place, with which PyTorch may read cells that it has already
    overwritten.
    """
    right, left, down, up = x.chunk(4, dim=-1)
    shifted = (
        torch.cat([right[:, :, :1], right[:, :, :-1]], dim=2),
        torch.cat([left[:, :, 1:], left[:, :, -1:]], dim=2),
        torch.cat([down[:, :1], down[:, :-1]], dim=1),
        torch.cat([up[:, 1:], up[:, -1:]], dim=1),
    )
    return torch.cat(shifted, dim=-1)


class Affine(nn.Module):
    """A learned scale and shift of each channel, without statistics (ResMLP, Touvron et al. 2021, equation 1)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.bias = nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor) -> Tensor:
        """(..., C) -> (..., C)."""
        return x * self.weight + self.bias


def normalisation(norm: Literal["layer", "affine"], width: int) -> nn.Module:
    return nn.LayerNorm(width) if norm == "layer" else Affine(width)
