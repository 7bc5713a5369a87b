"""Multi-scale deformable attention (Deformable DETR, Zhu et al. 2021, section 4.1) in plain PyTorch."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from densevit.layers.linear import Linear
from densevit.layers.precision import at_least_fp32
from densevit.layers.table_cache import cached_table

Shapes = Sequence[tuple[int, int]]


def multi_scale_deformable_attention(
    value: Tensor, shapes: Shapes, locations: Tensor, weights: Tensor, deterministic: bool = False
) -> Tensor:
    """Weighted sum of values sampled bilinearly at P points of each of L feature maps (equation 3).

    value: (B, S, N, D), the cells of all levels in row-major order, for N heads. shapes: (H, W) of each level.
    locations: (B, Q, N, L, P, 2), points (x, y) in 0 ... 1 of each level, as `F.grid_sample` with align_corners=False;
    cells outside count as zero. weights: (B, Q, N, L, P), softmaxed over all points of a query and head.
    deterministic: the backward pass on a GPU uses no atomic additions; on a CPU it never does.
    Returns (B, Q, N * D) in the dtype of value; computed in at least fp32.
    """
    cells = sum(height * width for height, width in shapes)
    if value.shape[1] != cells:
        raise ValueError(f"value has {value.shape[1]} cells; the levels {[*shapes]} have {cells}.")
    if locations.shape[3] != len(shapes):
        raise ValueError(f"locations have {locations.shape[3]} levels; shapes has {len(shapes)}: {[*shapes]}.")
    inputs = at_least_fp32(value), at_least_fp32(locations), at_least_fp32(weights)
    if torch.compiler.is_compiling() and not torch.compiler.is_dynamo_compiling():  # export: ONNX has GridSample
        return _grid_sample(*inputs, shapes).to(value.dtype)
    grid = cached_table(_grid, tuple(shapes), locations.shape[4], value.device)
    return _DeformableAttention.apply(*inputs, grid, shapes, deterministic).to(value.dtype)


class MultiScaleDeformableAttention(nn.Module):
    """Multi-scale deformable attention with its projections, initialised as in the authors' code."""

    def __init__(self, width: int, levels: int, heads: int = 8, points: int = 4, deterministic: bool = False) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"width is {width}; it must be a multiple of num_heads, {heads}.")
        self.levels, self.heads, self.points, self.deterministic = levels, heads, points, deterministic
        self.value = Linear(width, width)
        self.offsets = Linear(width, heads * levels * points * 2)
        self.weights = Linear(width, heads * levels * points)
        self.output = Linear(width, width)
        self._initialise()

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
        steps = torch.arange(1, self.points + 1)[:, None]
        offsets = (direction[:, None, None] * steps).expand(-1, self.levels, -1, -1)  # (N, L, P, 2)
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
        value = self.value(memory)
        if padding_mask is not None:
            value = value.masked_fill(padding_mask[..., None], 0.0)
        offsets = at_least_fp32(self.offsets(query)).unflatten(-1, (self.heads, self.levels, self.points, 2))
        weights = at_least_fp32(self.weights(query)).unflatten(-1, (self.heads, self.levels * self.points))
        reference = at_least_fp32(reference)[:, :, None, :, None]  # (B, Q, 1, L, 1, 2 or 4)
        if reference.shape[-1] == 2:
            sizes = cached_table(_sizes, tuple(shapes), query.device)
            locations = reference + offsets / sizes[:, None]
        elif reference.shape[-1] == 4:
            locations = reference[..., :2] + offsets * reference[..., 2:] / (2 * self.points)
        else:
            raise ValueError(f"reference has {reference.shape[-1]} coordinates; it must have 2 or 4.")
        x = multi_scale_deformable_attention(
            value.unflatten(-1, (self.heads, -1)),
            shapes,
            locations,
            weights.softmax(-1).unflatten(-1, (self.levels, self.points)),
            self.deterministic,
        )
        return self.output(x)


def _sizes(shapes: tuple[tuple[int, int], ...], device: torch.device) -> Tensor:
    """Width and height of each level, (L, 2)."""
    return _table([(width, height) for height, width in shapes], torch.int64, device)


def _grid(shapes: tuple[tuple[int, int], ...], points: int, device: torch.device) -> Tensor:
    """Width, height, first cell and first cell with a border of the level of each point, (4, L * P), int32."""
    rows, first, padded = [], 0, 0
    for height, width in shapes:
        rows.append((width, height, first, padded))
        first, padded = first + height * width, padded + (height + 1) * (width + 1)
    return _table(rows, torch.int32, device).T.repeat_interleave(points, 1)


def _table(rows: Sequence[tuple[int, ...]], dtype: torch.dtype, device: torch.device) -> Tensor:
    """The numbers as a tensor, without a copy from the CPU, for which a GPU would wait."""
    return torch.stack([torch.stack([torch.full((), x, dtype=dtype, device=device) for x in row]) for row in rows])


def _grid_sample(value: Tensor, locations: Tensor, weights: Tensor, shapes: Shapes) -> Tensor:
    """The same with a `grid_sample` for each level, which exports well."""
    B, _, N, D = value.shape
    Q = locations.shape[1]
    maps = value.split([height * width for height, width in shapes], dim=1)
    grids = (2 * locations - 1).transpose(1, 2).flatten(0, 1).unbind(2)  # L x (B * N, Q, P, 2)
    samples = [
        F.grid_sample(x.permute(0, 2, 3, 1).reshape(B * N, D, *shape), grid, align_corners=False)
        for x, shape, grid in zip(maps, shapes, grids, strict=True)
    ]  # L x (B * N, D, Q, P)
    weights = weights.transpose(1, 2).reshape(B * N, 1, Q, -1)
    x = (torch.cat(samples, -1) * weights).sum(-1)  # (B * N, D, Q)
    return x.view(B, N * D, Q).transpose(1, 2)


class _DeformableAttention(torch.autograd.Function):
    """Sums over the four cells around each point as an `embedding_bag`, with the bilinear weights in its weights.

    The backward pass computes the cells again: nothing of the size of the samples is stored.
    grid: (4, K) of `_grid`, for K = L * P points.
    """

    @staticmethod
    def forward(
        ctx: Any, value: Tensor, locations: Tensor, weights: Tensor, grid: Tensor, shapes: Shapes, deterministic: bool
    ) -> Tensor:
        ctx.save_for_backward(value, locations, weights, grid)
        ctx.shapes, ctx.deterministic = shapes, deterministic
        B, _, N, D = value.shape
        x, y, a = _axis(locations[..., 0], grid[0]), _axis(locations[..., 1], grid[1]), weights.flatten(-2)
        output = F.embedding_bag(
            _rows(x, y, grid, value.shape),
            value.reshape(-1, D),
            mode="sum",
            per_sample_weights=_outer(x.weights, y.weights * a[..., None, :]).view(-1, 4 * a.shape[-1]),
        )
        return output.view(B, locations.shape[1], N * D)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        value, locations, weights, grid = ctx.saved_tensors
        D = value.shape[3]
        grad = grad.reshape(-1, D)  # (B * Q * N, D)
        x, y, a = _axis(locations[..., 0], grid[0]), _axis(locations[..., 1], grid[1]), weights.flatten(-2)
        grad_value = grad_locations = grad_weights = None
        if ctx.needs_input_grad[0]:
            if _is_atomic(value, ctx.deterministic):
                grad_value = _scatter_add(grad, x, y, a, grid, value.shape)
            else:
                grad_value = _segment_sum(grad, x, y, a, grid, value.shape, ctx.shapes)
        if ctx.needs_input_grad[1] or ctx.needs_input_grad[2]:
            dots = _dots(grad, value.reshape(-1, D), _rows(x, y, grid, value.shape))
            dots = dots.view(*a.shape[:-1], 2, 2, a.shape[-1])  # (B, Q, N, y, x, K)
            along_x = (dots * y.weights[..., None, :]).sum(-3)  # (B, Q, N, 2, K)
            along_y = (dots * x.weights[..., None, :, :]).sum(-2)
            grad_weights = (along_x * x.weights).sum(-2).view_as(weights)
            slope = torch.stack([_slope(x, along_x) * grid[0], _slope(y, along_y) * grid[1]], -1)
            grad_locations = (slope * a[..., None]).view_as(locations)
        return grad_value, grad_locations, grad_weights, None, None, None


def _is_atomic(value: Tensor, deterministic: bool) -> bool:
    return value.is_cuda and not (deterministic or torch.are_deterministic_algorithms_enabled())


class _Axis(NamedTuple):
    """The two neighbours of points on one axis: low, the first, and (..., 2, K) for both.

    Neighbours outside the map have index 0 or size - 1 in `cells`, and no weight.
    """

    low: Tensor  # int32, -1 ... size - 1
    cells: Tensor  # int32
    weights: Tensor
    inside: Tensor


def _axis(coordinates: Tensor, size: Tensor) -> _Axis:
    """coordinates: (..., L, P) in 0 ... 1. size: (K,), cells of the axis."""
    position = coordinates.flatten(-2) * size - 0.5
    low = position.floor()
    fraction = position - low
    neighbours = torch.stack([low, low + 1], -2)
    inside = (neighbours >= 0) & (neighbours < size)
    weights = torch.where(inside, torch.stack([1 - fraction, fraction], -2), 0)
    cells = neighbours.int().clamp(min=0).minimum(size - 1)
    return _Axis(low.int().clamp(min=-1).minimum(size - 1), cells, weights, inside)


def _outer(x: Tensor, y: Tensor) -> Tensor:
    """(..., 2, K) of both axes -> (..., 2, 2, K), the four cells around each point."""
    return y[..., :, None, :] * x[..., None, :, :]


def _slope(axis: _Axis, dots: Tensor) -> Tensor:
    """Derivative by the position: the second neighbour's product minus the first's."""
    first, second = torch.where(axis.inside, dots, 0).unbind(-2)
    return second - first


def _rows(x: _Axis, y: _Axis, grid: Tensor, shape: torch.Size) -> Tensor:
    """Rows of value (B * S * N, D) that each query and head samples, (B * Q * N, 4 * K)."""
    B, S, N, _ = shape
    cells = (y.cells * grid[0] + grid[2])[..., :, None, :] + x.cells[..., None, :, :]  # (B, Q, N, 2, 2, K)
    return _spread(cells.flatten(-3), B, S, N).view(-1, 4 * grid.shape[1])


def _spread(cells: Tensor, B: int, S: int, N: int) -> Tensor:
    """Rows of (B * S * N, D) from cells (B, Q, N, K) in 0 ... S - 1."""
    image = torch.arange(B, device=cells.device, dtype=cells.dtype)[:, None, None, None]
    head = torch.arange(N, device=cells.device, dtype=cells.dtype)[:, None]
    return cells * N + (image * (S * N) + head)


def _dots(grad: Tensor, rows: Tensor, index: Tensor) -> Tensor:
    """Product of each bag's gradient with each of its rows: the gradient of the weights of an `embedding_bag`."""
    M, K = index.shape
    offsets = torch.arange(0, M * K, K, device=index.device, dtype=index.dtype)
    bag = torch.arange(M, device=index.device, dtype=index.dtype).repeat_interleave(K)
    return torch.ops.aten._embedding_bag_per_sample_weights_backward(grad, rows, index.view(-1), offsets, bag, 0)


def _scatter_add(grad: Tensor, x: _Axis, y: _Axis, a: Tensor, grid: Tensor, shape: torch.Size) -> Tensor:
    """Gradient of value with atomic additions on a GPU, for one of the four neighbours at a time to bound memory."""
    K = grid.shape[1]
    rows = _rows(x, y, grid, shape).view(-1, 4, K)
    weights = _outer(x.weights, y.weights * a[..., None, :]).view(-1, 4, K)
    result = grad.new_zeros(shape).view(-1, shape[3])
    for corner in range(4):
        samples = grad[:, None] * weights[:, corner, :, None]  # (B * Q * N, K, D)
        result.index_add_(0, rows[:, corner].reshape(-1), samples.flatten(0, 1))
    return result.view(shape)


def _segment_sum(
    grad: Tensor, x: _Axis, y: _Axis, a: Tensor, grid: Tensor, shape: torch.Size, shapes: Shapes
) -> Tensor:
    """Gradient of value: points sorted by the cell of their first neighbours, and summed over runs of equal cells.

    First neighbours lie in (H + 1) x (W + 1) cells. Each of the four neighbours has its sum over these cells; the sums
    are added with a shift by one cell.
    """
    B, _, N, D = shape
    S = sum((height + 1) * (width + 1) for height, width in shapes)
    cells = (y.low + 1) * (grid[0] + 1) + x.low + 1 + grid[3]  # (B, Q, N, K)
    cells, order = _spread(cells, B, S, N).view(-1).sort(stable=True)
    starts = torch.searchsorted(cells, torch.arange(B * S * N, device=cells.device, dtype=cells.dtype))
    queries = order // grid.shape[1]
    result = grad.new_zeros(shape)
    wy = y.weights * a[..., None, :]
    for i in range(2):
        for j in range(2):
            w = (wy[..., i, :] * x.weights[..., j, :]).view(-1)[order]
            sums = F.embedding_bag(queries, grad, starts, mode="sum", per_sample_weights=w).view(B, S, N, D)
            first = padded = 0
            for height, width in shapes:
                area, padded_area = height * width, (height + 1) * (width + 1)
                level = sums[:, padded : padded + padded_area].view(B, height + 1, width + 1, N, D)
                level = level[:, 1 - i : 1 - i + height, 1 - j : 1 - j + width]
                result[:, first : first + area].view(B, height, width, N, D).add_(level)
                first, padded = first + area, padded + padded_area
    return result
