"""Multi-scale deformable attention (Deformable DETR, Zhu et al. 2021, section 4.1) in plain PyTorch."""

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from densevit.layers.precision import at_least_fp32
from densevit.layers.table_cache import cached_table

Shapes = Sequence[tuple[int, int]]
Sampling = Literal["grid_sample", "discrete"]


def multi_scale_deformable_attention(
    value: Tensor,
    shapes: Shapes,
    locations: Tensor,
    weights: Tensor,
    deterministic: bool = False,
    points: Sequence[int] | None = None,
    sampling: Sampling = "grid_sample",
) -> Tensor:
    """Weighted sum of values sampled at P points of each of L feature maps (equation 3).

    value: (B, S, N, D), the cells of all levels in row-major order, for N heads. shapes: (H, W) of each level.
    locations: (B, Q, N, L, P, 2), points (x, y) in 0 ... 1 of each level. weights: (B, Q, N, L, P), softmaxed over all
    points of a query and head. points: the number of points of each level, if they differ; `locations` are then
    (B, Q, N, K, 2) and `weights` (B, Q, N, K) of all K points, by level.
    sampling: "grid_sample", bilinearly as `F.grid_sample` with align_corners=False, where cells outside count as zero;
    "discrete", the value of one cell (`discrete_cells`), without a gradient of locations.
    deterministic: no effect here; the replacement in `densevit.layers.fast` then uses no atomic additions in the
    backward pass on a GPU, where `F.grid_sample` always uses them. Modules keep this function in an attribute.
    Returns (B, Q, N * D) in the dtype of value; computed in at least fp32.
    """
    locations, weights, points = by_level(value, shapes, locations, weights, points)
    (B, Q, N, K), D = weights.shape, value.shape[3]
    sample = _discrete if sampling == "discrete" else _bilinear
    maps = at_least_fp32(value).split([height * width for height, width in shapes], dim=1)
    samples = []
    for x, (H, W), level, P in zip(maps, shapes, locations.split([*points], dim=3), points, strict=True):
        x = x.permute(0, 2, 3, 1).reshape(B * N, D, H, W)
        samples.append(sample(x, level.transpose(1, 2).reshape(B * N, Q, P, 2)))  # (B * N, D, Q, P)
    weights = weights.transpose(1, 2).reshape(B * N, 1, Q, K)
    x = (torch.cat(samples, dim=-1) * weights).sum(-1)  # (B * N, D, Q)
    return x.view(B, N * D, Q).transpose(1, 2).to(value.dtype)


def by_level(
    value: Tensor, shapes: Shapes, locations: Tensor, weights: Tensor, points: Sequence[int] | None
) -> tuple[Tensor, Tensor, Sequence[int]]:
    """Locations (B, Q, N, K, 2) and weights (B, Q, N, K) in at least fp32, and the number of points of each level.

    Arguments: see `multi_scale_deformable_attention`. Raises ValueError if their sizes do not match.
    """
    cells = sum(height * width for height, width in shapes)
    if value.shape[1] != cells:
        raise ValueError(f"value has {value.shape[1]} cells; the levels {[*shapes]} have {cells}.")
    if points is None:
        points = [locations.shape[4]] * locations.shape[3]
        locations, weights = locations.flatten(3, 4), weights.flatten(3)
    if len(points) != len(shapes):
        raise ValueError(f"locations have {len(points)} levels; shapes has {len(shapes)}: {[*shapes]}.")
    return at_least_fp32(locations), at_least_fp32(weights), points


def _bilinear(x: Tensor, locations: Tensor) -> Tensor:
    """x: (B, D, H, W). locations: (B, Q, P, 2). Returns (B, D, Q, P)."""
    return F.grid_sample(x, 2 * locations - 1, mode="bilinear", padding_mode="zeros", align_corners=False)


def _discrete(x: Tensor, locations: Tensor) -> Tensor:
    """Values of the cells of `discrete_cells`; same shapes as `_bilinear`."""
    D, H, W = x.shape[1:]
    size = table([(W, H)], torch.int32, x.device)[0]
    column, row = discrete_cells(locations, size).flatten(1, 2).unbind(-1)  # (B, Q * P)
    index = (row * W + column)[:, None].expand(-1, D, -1)
    return x.flatten(2).gather(2, index).unflatten(2, locations.shape[1:3])


def discrete_cells(locations: Tensor, size: Tensor) -> Tensor:
    """The column and row of the cell that each point samples, int64 (RT-DETRv2, Lv et al. 2024).

    locations: (..., 2). size: width and height of the map, broadcast to (..., 2). As in the authors' code, half a cell
    is added to the cell index on each axis, and the result is clamped to the map. The authors clamp both axes to the
    height, which is equal for their square maps.
    """
    cells = (locations.detach() * size + 0.5).to(torch.int64)
    return cells.clamp(min=torch.zeros_like(size), max=size - 1)


class MultiScaleDeformableAttention(nn.Module):
    """Multi-scale deformable attention with its projections, initialised as in the authors' code.

    points: the number of points of each level, or one number for all levels. deterministic, sampling: the arguments
    of `multi_scale_deformable_attention`; with sampling "discrete" the layer of offsets gets no gradient and is frozen
    (RT-DETRv2, Lv et al. 2024).
    """

    def __init__(
        self,
        width: int,
        levels: int,
        heads: int = 8,
        points: int | Sequence[int] = 4,
        deterministic: bool = False,
        sampling: Sampling = "grid_sample",
    ) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"width is {width}; it must be a multiple of num_heads, {heads}.")
        self.heads, self.deterministic, self.sampling = heads, deterministic, sampling
        self.sample = multi_scale_deformable_attention
        self.points = (points,) * levels if isinstance(points, int) else tuple(points)
        if len(self.points) != levels:
            raise ValueError(f"points is {[*self.points]}; expected the number of points of each of {levels} levels.")
        self.value = nn.Linear(width, width)
        self.offsets = nn.Linear(width, heads * sum(self.points) * 2)
        self.weights = nn.Linear(width, heads * sum(self.points))
        self.output = nn.Linear(width, width)
        self._initialise()
        self.offsets.requires_grad_(sampling != "discrete")

    def _initialise(self) -> None:
        for layer in (self.value, self.output):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)
        for layer in (self.offsets, self.weights):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)
        angle = torch.arange(self.heads) * (2 * math.pi / self.heads)
        direction = torch.stack([angle.cos(), angle.sin()], -1)  # (N, 2)
        direction = direction / direction.abs().amax(-1, keepdim=True)
        steps = torch.cat([torch.arange(1, count + 1) for count in self.points])
        offsets = direction[:, None] * steps[:, None]  # (N, K, 2)
        with torch.no_grad():
            self.offsets.bias.copy_(offsets.flatten())

    def forward(
        self, query: Tensor, reference: Tensor, memory: Tensor, shapes: Shapes, padding_mask: Tensor | None = None
    ) -> Tensor:
        """Attends from queries (B, Q, C) to the cells of all levels, memory (B, S, C). Returns (B, Q, C).

        reference: (B, Q, L, 2) points (x, y), from which offsets are in cells, or (B, Q, L, 4) boxes (cx, cy, w, h),
        from which they are in w and h over twice the number of points; in 0 ... 1 of each padded map.
        padding_mask: (B, S), True = padding. Locations are computed in at least fp32, also under autocast.
        """
        (B, Q), S, tokens = query.shape[:2], memory.shape[1], query.flatten(0, 1)
        value = self.value(memory.flatten(0, 1))  # (B * S, C)
        if padding_mask is not None:
            value = value.masked_fill(padding_mask.flatten()[:, None], 0.0)
        offsets = at_least_fp32(self.offsets(tokens)).view(B, Q, self.heads, -1, 2)  # (B, Q, N, K, 2)
        weights = at_least_fp32(self.weights(tokens)).view(B, Q, self.heads, -1)
        x = self.sample(
            value.view(B, S, self.heads, -1),
            shapes,
            _locations(at_least_fp32(reference), offsets, self.points, shapes),
            weights.softmax(-1),
            self.deterministic,
            self.points,
            self.sampling,
        )
        return self.output(x.flatten(0, 1)).view(B, Q, -1)


def _locations(reference: Tensor, offsets: Tensor, points: Sequence[int], shapes: Shapes) -> Tensor:
    """reference: (B, Q, L, 2 or 4). offsets: (B, Q, N, K, 2). Returns (B, Q, N, K, 2), in 0 ... 1 of each map."""
    levels = cached_table(_levels, tuple(points), tuple(shapes), offsets.device)
    reference = reference[:, :, levels[0]]  # (B, Q, K, 2 or 4)
    if reference.shape[-1] == 2:
        return reference[:, :, None] + offsets / levels[1:3].T
    if reference.shape[-1] == 4:
        return reference[:, :, None, :, :2] + offsets * (reference[..., 2:] / levels[3:].T)[:, :, None]
    raise ValueError(f"reference has {reference.shape[-1]} coordinates; it must have 2 or 4.")


def _levels(points: tuple[int, ...], shapes: tuple[tuple[int, int], ...], device: torch.device) -> Tensor:
    """The level of each of K points, its width and height, and twice its number of points, (4, K), int64."""
    rows = [
        (level, W, H, 2 * P) for level, ((H, W), P) in enumerate(zip(shapes, points, strict=True)) for _ in range(P)
    ]
    return table(rows, torch.int64, device).T


def table(rows: Sequence[tuple[int, ...]], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Builds a tensor of numbers without a copy from the CPU, which would synchronise with a GPU."""
    return torch.stack([torch.stack([torch.full((), x, dtype=dtype, device=device) for x in row]) for row in rows])
