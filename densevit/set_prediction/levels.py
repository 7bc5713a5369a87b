"""Feature levels: maps of several strides, projected to one sequence of tokens (Zhu et al. 2021, section 4.1)."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from densevit.layers.norms import GroupNorm
from densevit.layers.positions import mask_on_grid, sine_map
from densevit.layers.table_cache import cached_table
from densevit.set_prediction.limits import MAX_LAYERS, check_counts
from densevit.set_prediction.transformer import Transformer

NORM_GROUPS = 32  # of the group norm after each projection


def check_levels(transformer: Transformer, num_levels: int, min_stride: int, num_points: int) -> None:
    """Raises ValueError for invalid options."""
    check_counts({"num_levels": num_levels, "num_points": num_points}, 1, MAX_LAYERS)
    check_counts({"transformer.encoder_layers": transformer.encoder_layers, "min_stride": min_stride})
    if transformer.width % NORM_GROUPS:
        width = transformer.width
        raise ValueError(
            f"transformer.width is {width}; it must be a multiple of {NORM_GROUPS}, the groups of the group norm."
        )


class Levels(NamedTuple):
    """The maps of L levels as one sequence of S tokens: fine to coarse, each map in row-major order (Deformable DETR,
    Zhu et al. 2021, section 4.1).

    tokens, positions: (B, S, C). padding: (B, S) bool. shapes: (H, W) of each map. centres: (B, S, 2), xy of the cell
    centres in 0 ... 1 of the image without padding. valid_ratios: (B, L, 2), the share of columns and rows of each map
    that are not padding: a position in 0 ... 1 of the image times this ratio is one in 0 ... 1 of the map.
    """

    tokens: Tensor
    positions: Tensor
    padding: Tensor
    shapes: list[tuple[int, int]]
    centres: Tensor
    valid_ratios: Tensor

    @classmethod
    def of(cls, maps: Sequence[Tensor], paddings: Sequence[Tensor], positions: Sequence[Tensor] = ()) -> "Levels":
        """Joins the levels. maps: (B, C, H, W) each. paddings: (B, H, W) each.

        positions: (B, H * W, C) each; empty: all positions are 0.
        """
        shapes = [(x.shape[-2], x.shape[-1]) for x in maps]
        ratios = torch.stack([valid_ratio(padding) for padding in paddings], dim=1)  # (B, L, 2)
        level, centres = (cached_table(make, tuple(shapes), ratios.device) for make in (_level_of_cells, _cell_centres))
        tokens = torch.cat([x.flatten(2).transpose(1, 2) for x in maps], dim=1)
        return cls(
            tokens,
            torch.cat(list(positions), dim=1) if positions else tokens.new_zeros(1).expand_as(tokens),
            torch.cat([padding.flatten(1) for padding in paddings], dim=1),
            shapes,
            centres / ratios[:, level],
            ratios,
        )

    def on_maps(self, reference: Tensor) -> Tensor:
        """Points (B, Q, 2) or boxes (B, Q, 4) of the image, as positions on each map: (B, Q, L, 2 or 4)."""
        ratios = self.valid_ratios.repeat(1, 1, reference.shape[-1] // 2)
        return reference[:, :, None] * ratios[:, None]


class LevelProjections(nn.Module):
    """Projects features to `num_levels` levels of one width, and adds levels coarser than the coarsest feature.

    The levels are the coarsest features of stride `min_stride` and above, one for each stride; of several features of
    one stride the deepest. Each is projected by a 1x1 convolution. Missing levels follow by 3x3 convolutions of stride
    2: the first on the coarsest feature, the others on the level before. Group norm follows each convolution.

    blank_padding: features of padding are set to 0 first, so that the group norms do not depend on what a backbone
    makes of padding. In the authors' code they do. Raises ValueError if all features are finer than `min_stride`.
    """

    def __init__(
        self,
        channels: Sequence[int],
        strides: Sequence[int],
        width: int,
        num_levels: int,
        min_stride: int,
        blank_padding: bool = True,
    ) -> None:
        super().__init__()
        self.blank_padding = blank_padding
        deepest = {stride: index for index, stride in enumerate(strides) if stride >= min_stride}
        if not deepest:
            raise ValueError(f"min_stride is {min_stride}, but the coarsest feature has stride {max(strides)}.")
        self.features = list(deepest.values())[-num_levels:]
        convolutions = [nn.Conv2d(channels[index], width, 1) for index in self.features]
        inputs = channels[self.features[-1]]
        for _ in range(num_levels - len(self.features)):
            convolutions.append(nn.Conv2d(inputs, width, 3, stride=2, padding=1))
            inputs = width
        self.projections = nn.ModuleList(
            nn.Sequential(convolution, GroupNorm(NORM_GROUPS, width)) for convolution in convolutions
        )
        self.embedding = nn.Parameter(torch.randn(num_levels, width))
        for convolution in convolutions:
            nn.init.xavier_uniform_(convolution.weight)
            nn.init.zeros_(convolution.bias)  # type: ignore[arg-type]

    def forward(self, features: list[Tensor], padding_mask: Tensor) -> Levels:
        """padding_mask: (B, H, W) of the batch."""
        used = [features[index] for index in self.features]
        if self.blank_padding:
            used = [without_padding(x, padding_mask) for x in used]
        maps = [project(x) for project, x in zip(self.projections, used, strict=False)]
        x = used[-1]
        for project in self.projections[len(used) :]:
            x = project(x)
            maps.append(x)

        paddings = [mask_on_grid(padding_mask, (x.shape[-2], x.shape[-1])) for x in maps]
        positions = [
            sine_map(padding, x.shape[1], centred=True).to(x.dtype).flatten(1, 2) + embedding.to(x.dtype)
            for x, padding, embedding in zip(maps, paddings, self.embedding, strict=True)
        ]
        return Levels.of(maps, paddings, positions)


def without_padding(x: Tensor, padding_mask: Tensor) -> Tensor:
    """Sets features (B, C, h, w) of padding to 0. padding_mask: (B, H, W) of the batch."""
    return x.masked_fill(mask_on_grid(padding_mask, (x.shape[-2], x.shape[-1]))[:, None], 0.0)


def valid_ratio(padding: Tensor) -> Tensor:
    """padding: (B, H, W) bool. Returns (B, 2), the share of columns and of rows that are not padding."""
    inside = (~padding).float()
    return torch.stack([inside[:, 0].mean(1), inside[:, :, 0].mean(1)], dim=-1)


def _cell_centres(shapes: tuple[tuple[int, int], ...], device: torch.device) -> Tensor:
    """xy of the cell centres of all maps, in 0 ... 1 of each: (S, 2)."""
    grids = []
    for H, W in shapes:
        columns = (torch.arange(W, device=device) + 0.5) / W
        rows = (torch.arange(H, device=device) + 0.5) / H
        grids.append(torch.stack(torch.meshgrid(columns, rows, indexing="xy"), dim=-1).flatten(0, 1))
    return torch.cat(grids)


def _level_of_cells(shapes: tuple[tuple[int, int], ...], device: torch.device) -> Tensor:
    """The level of each cell, (S,) int64."""
    return torch.cat([torch.full((H * W,), level, device=device) for level, (H, W) in enumerate(shapes)])
