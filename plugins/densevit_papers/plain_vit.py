"""Base of plain vision transformers: patches, class token, positions, blocks and features of one stride."""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from densevit.errors import WeightsError
from densevit.interfaces import Backbone, StateDict
from densevit.layers.checkpointing import run
from densevit.layers.initial_weights import truncated_normal
from densevit.layers.positions import resize_grid
from densevit.layouts import count

EPS = 1e-6  # of the layer norms
Readout = Literal["ignore", "add", "project"]
"""Use of the class token in the features: none; added to each cell; concatenated to each cell, then a linear layer and
a GELU (DPT, Ranftl et al. 2021, section 3.1)."""


class PlainViT(Backbone):
    """A plain vision transformer: features of one stride, after some of its blocks and a layer norm.

    A subclass builds the parts. Images are padded with zeros at the right and the bottom to a multiple of `stride`.

    embedding: maps images (B, 3, H, W) whose sides are multiples of `stride` to cells (B, width, H / stride, W /
        stride).
    blocks: each takes tokens (B, 1 + H * W, width), the class token first, and the grid (H, W), and returns new tokens.
        The number of the last block is the last of `features` (`feature_blocks`).
    image_size: the side in pixels of the image of the position table, which is resized for other images.
    """

    def __init__(
        self,
        embedding: nn.Module,
        blocks: Sequence[nn.Module],
        width: int,
        stride: int,
        image_size: int,
        features: tuple[int, ...],
        readout: Readout,
        gradient_checkpointing: bool,
    ) -> None:
        super().__init__()
        if image_size < 1:
            raise ValueError(f"image_size is {image_size}; it is the side of an image in pixels, 1 or more.")
        self.channels = (width,) * len(features)
        self.strides = (stride,) * len(features)
        self.feature_blocks, self.readout, self.gradient_checkpointing = features, readout, gradient_checkpointing
        self.position_side = -(-image_size // stride)
        self.embedding = embedding
        self.class_token = nn.Parameter(torch.zeros(1, width))
        self.position_table = nn.Parameter(torch.zeros(self.position_side, self.position_side, width))
        self.blocks = nn.ModuleList(blocks)
        self.norm = nn.LayerNorm(width, EPS)
        self.readouts = nn.ModuleList(nn.Linear(2 * width, width) for _ in features if readout == "project")
        self.apply(truncated_normal)
        nn.init.trunc_normal_(self.class_token, std=0.02)
        nn.init.trunc_normal_(self.position_table, std=0.02)

    def forward(self, images: Tensor) -> list[Tensor]:
        stride = self.strides[0]
        H, W = images.shape[2:]
        cells = self.embedding(F.pad(images, (0, -W % stride, 0, -H % stride)))
        grid = (cells.shape[2], cells.shape[3])
        x = cells.flatten(2).transpose(1, 2) + resize_grid(self.position_table, grid).flatten(0, 1).to(cells.dtype)
        x = torch.cat([self.class_token.to(x.dtype).expand(x.shape[0], -1, -1), x], dim=1)  # (B, 1 + H * W, C)
        features = []
        for i, block in enumerate(self.blocks):
            x = run(block, x, grid, checkpointed=self.gradient_checkpointing and self.training)
            if i + 1 in self.feature_blocks:
                features.append(self._feature(x, grid, i + 1))
        return features

    def parameter_depths(self) -> list[list[nn.Parameter]]:
        """Groups: embedding, class token and positions; each block; the norm and the readouts."""
        first = [*self.embedding.parameters(), self.class_token, self.position_table]
        last = [*self.norm.parameters(), *self.readouts.parameters()]
        return [first, *(list(block.parameters()) for block in self.blocks), last]

    def carried_over(self, name: str, tensor: Tensor) -> tuple[Tensor, str] | None:
        """Resizes a position table of another grid; see `densevit.weights.state_dict_loading.fit`."""
        size = self.position_side, self.position_side
        return (resize_grid(tensor, size), "interpolated") if name == "position_table" else None

    def _feature(self, x: Tensor, grid: tuple[int, int], block: int) -> Tensor:
        """All tokens after a block -> (B, C, H, W)."""
        x = self.norm(x)
        token, cells = x[:, :1], x[:, 1:]
        if self.readout == "add":
            cells = cells + token
        elif self.readout == "project":
            cells = torch.cat([cells, token.expand_as(cells)], dim=2)
            cells = F.gelu(self.readouts[self.feature_blocks.index(block)](cells))
        return as_map(cells, grid)


class PatchEmbedding(nn.Module):
    """A linear projection of square patches (ViT, Dosovitskiy et al. 2021, equation 1)."""

    def __init__(self, width: int, size: int, in_channels: int = 3) -> None:
        super().__init__()
        self.projection = nn.Conv2d(in_channels, width, size, stride=size)

    def forward(self, images: Tensor) -> Tensor:
        """(B, in_channels, H, W) -> (B, C, H / size, W / size)."""
        return self.projection(images)


def feature_blocks(features: tuple[int, ...] | None, depth: int) -> tuple[int, ...]:
    """The option `features`, checked: ascending numbers of blocks, from 1; None: the last blocks of the four quarters.

    Raises ValueError.
    """
    numbers = tuple(-(-depth * i // 4) for i in (1, 2, 3, 4)) if features is None else tuple(features)
    rising = all(a < b for a, b in itertools.pairwise(numbers))
    if not numbers or not rising or numbers[0] < 1 or numbers[-1] > depth:
        raise ValueError(f"features is {list(numbers)}; it must be ascending block numbers, from 1 to {depth}.")
    return numbers


def as_map(cells: Tensor, grid: tuple[int, int]) -> Tensor:
    """(B, H * W, C) -> (B, C, H, W)."""
    return cells.transpose(1, 2).unflatten(2, grid)


def describe(model: str, variants: Mapping[str, Any], tensors: StateDict, patch_size: int) -> dict[str, Any]:
    """The options of a `PlainViT` from tensors with densevit's keys: variant, patch size, image size, and features if
    the last blocks are missing.

    model: the name for messages. variants: the sizes by name, with the attributes `width` and `depth`.
    """
    width, depth = len(tensors["norm.weight"]), count(tensors, r"blocks\.(\d+)\.attention\.query\.weight")
    variant = next((name for name, sizes in variants.items() if sizes.width == width and depth <= sizes.depth), None)
    if variant is None:
        listed = ", ".join(f"{name} {sizes.width} and {sizes.depth}" for name, sizes in variants.items())
        raise WeightsError(f"A {model} of {width} channels and {depth} blocks is not a known variant: {listed}.")
    image_size = patch_size * len(tensors["position_table"])
    options: dict[str, Any] = {"variant": variant, "patch_size": patch_size, "image_size": image_size}
    if depth < variants[variant].depth:
        options["features"] = feature_blocks(None, depth)
    return options
