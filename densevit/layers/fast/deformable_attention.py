"""Multi-scale deformable attention as sums over the four cells around each point, without maps of samples.

Computes `densevit.layers.deformable_attention.multi_scale_deformable_attention`, equal up to rounding, 1.2 to 7 times
as fast on a CPU, with 6 to 65 % of the memory (docs/development/cpus.md). On a GPU it takes half the memory, and its
backward pass, which is deterministic if requested, is 1.4 to 1.8 times slower (docs/development/gpu.md). Exported files
have gathers and no GridSample.
"""

import warnings
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from densevit.layers.deformable_attention import Sampling, Shapes, by_level, discrete_cells, table
from densevit.layers.precision import at_least_fp32
from densevit.layers.table_cache import cached_table


def multi_scale_deformable_attention(
    value: Tensor,
    shapes: Shapes,
    locations: Tensor,
    weights: Tensor,
    deterministic: bool = False,
    points: Sequence[int] | None = None,
    sampling: Sampling = "grid_sample",
) -> Tensor:
    """`densevit.layers.deformable_attention.multi_scale_deformable_attention`.

    deterministic: the backward pass on a GPU uses no atomic additions; on a CPU it never does.
    """
    locations, weights, points = by_level(value, shapes, locations, weights, points)
    exporting = torch.compiler.is_compiling() and not torch.compiler.is_dynamo_compiling()
    grid = cached_table(_grid, tuple(shapes), tuple(points), value.device)
    if sampling == "discrete":
        return _discrete(at_least_fp32(value), locations, weights, grid, exporting).to(value.dtype)
    if exporting:
        return _gathered(at_least_fp32(value), locations, weights, grid).to(value.dtype)
    return _DeformableAttention.apply(value, locations, weights, grid, deterministic)


def _grid(shapes: tuple[tuple[int, int], ...], points: tuple[int, ...], device: torch.device) -> Tensor:
    """Width, height and first cell of the level of each point, (3, K), int32."""
    rows, first = [], 0
    for height, width in shapes:
        rows.append((width, height, first))
        first += height * width
    levels = table(rows, torch.int32, device)
    return torch.cat([level.expand(count, 3) for level, count in zip(levels, points, strict=True)]).T.contiguous()


def _gathered(value: Tensor, locations: Tensor, weights: Tensor, grid: Tensor) -> Tensor:
    """Multi-scale deformable attention for export, with one gather of the four cells around each point.

    TensorRT was reported to compute GridSample wrong in such graphs (NVIDIA/TensorRT#4813). Returns (B, Q, N * D).
    """
    near = _neighbours(locations.flatten(0, 2), grid)  # (2, 2, B * Q * N, K): LiteRT compares at most five dimensions
    sampled = F.embedding(near.rows(value.shape, grid), _flat(value))  # (B * Q * N, 4 * K, D)
    x = near.products(weights.flatten(0, 2))[:, None] @ sampled
    return x.view(*weights.shape[:3], value.shape[3]).flatten(2)


def _discrete(value: Tensor, locations: Tensor, weights: Tensor, grid: Tensor, exporting: bool) -> Tensor:
    """Returns (B, Q, N * D). exporting: uses indexing, which ONNX has, instead of an `embedding_bag`."""
    B, S, N, D = value.shape
    x, y = discrete_cells(locations, grid[:2].T).unbind(-1)
    cells = grid[2] + y * grid[0] + x  # (B, Q, N, K)
    if exporting:
        index = cells.transpose(1, 2).flatten(2)[..., None].expand(-1, -1, -1, D)  # (B, N, Q * K, D)
        sampled = value.transpose(1, 2).gather(2, index).unflatten(2, (cells.shape[1], -1))  # (B, N, Q, K, D)
        return (sampled * weights.transpose(1, 2)[..., None]).sum(3).transpose(1, 2).flatten(2)
    rows = cells * N + cached_table(_origins, B, S, N, value.device)[..., None]
    x = F.embedding_bag(_flat(rows), _flat(value), mode="sum", per_sample_weights=_flat(weights))
    return x.view(B, -1, N * D)


class _DeformableAttention(torch.autograd.Function):
    """Sums over the four cells around each point as an `embedding_bag`, with the bilinear weights in its weights.

    Computed in chunks of images and heads, so that intermediate results stay small. The backward pass recomputes them,
    so nothing of the size of the samples is stored. grid: (3, K) of `_grid`, for K points.
    """

    @staticmethod
    def forward(
        ctx: Any, value: Tensor, locations: Tensor, weights: Tensor, grid: Tensor, deterministic: bool
    ) -> Tensor:
        ctx.save_for_backward(value, locations, weights, grid)
        ctx.deterministic = deterministic
        chunks = _chunks(value, weights)
        if len(chunks) == 1:
            return _forward(value, locations, weights, grid).flatten(2)
        output = value.new_empty(*weights.shape[:3], value.shape[3])  # (B, Q, N, D)
        for b, n in chunks:
            output[b, :, n] = _forward(value[b, :, n], locations[b, :, n], weights[b, :, n], grid)
        return output.flatten(2)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        value, locations, weights, grid = ctx.saved_tensors
        grad = grad.unflatten(-1, value.shape[2:])  # (B, Q, N, D)
        add = _scatter_add if _is_atomic(value, ctx.deterministic) else _segment_sum
        needed = ctx.needs_input_grad[:3]
        chunks = _chunks(value, weights)
        if len(chunks) == 1:
            return *_backward(value, locations, weights, grad, grid, add, needed), None, None
        inputs = (value, locations, weights)
        results = [torch.empty_like(x) if need else None for x, need in zip(inputs, needed, strict=True)]
        for b, n in chunks:
            v, x, a, g = (x[b, :, n] for x in (*inputs, grad))
            for result, part in zip(results, _backward(v, x, a, g, grid, add, needed), strict=True):
                if result is not None and part is not None:
                    result[b, :, n] = part
        return *results, None, None


def _forward(value: Tensor, locations: Tensor, weights: Tensor, grid: Tensor) -> Tensor:
    """Returns (B, Q, N, D)."""
    rows = at_least_fp32(value)
    near = _neighbours(locations, grid)
    x = F.embedding_bag(near.rows(rows.shape, grid), _flat(rows), mode="sum", per_sample_weights=near.products(weights))
    return x.view(*weights.shape[:3], rows.shape[3]).to(value.dtype)


def _backward(
    value: Tensor,
    locations: Tensor,
    weights: Tensor,
    grad: Tensor,
    grid: Tensor,
    add: Callable[[Tensor, Tensor, Tensor, int], Tensor],
    needed: Sequence[bool],
) -> tuple[Tensor | None, ...]:
    """Gradients of value, locations and weights, if `needed`, from the gradient of the result (B, Q, N, D)."""
    near = _neighbours(locations, grid)
    index = near.rows(value.shape, grid)
    grad = _flat(at_least_fp32(grad))
    grad_value = grad_locations = grad_weights = None
    if needed[0]:
        grad_value = add(grad, index, near.products(weights), value.shape[:3].numel()).view(value.shape)
        grad_value = grad_value.to(value.dtype)
    if needed[1] or needed[2]:
        dots = _dots(grad, _flat(at_least_fp32(value)), index)
        grad_locations, grad_weights = near.backward(dots, weights, grid)
    return grad_value, grad_locations, grad_weights


def _flat(x: Tensor) -> Tensor:
    return x.reshape(-1, x.shape[-1])


def _on_eager_cpu(x: Tensor) -> bool:
    return type(x) is Tensor and x.device.type == "cpu" and not torch.compiler.is_compiling()  # no FakeTensor


def _is_atomic(value: Tensor, deterministic: bool) -> bool:
    return value.is_cuda and not (deterministic or torch.are_deterministic_algorithms_enabled())


def _chunks(value: Tensor, weights: Tensor) -> list[tuple[slice, slice]]:
    """Slices of images and heads with at most 2**21 numbers (2**26 on a GPU) in a tensor, or one image and head.

    A compiled graph has one chunk, because the number of chunks would depend on the sizes.
    """
    B, Q, N, K = weights.shape
    if torch.compiler.is_compiling():
        return [(slice(None), slice(None))]
    copied = value.shape[1] * value.shape[3] if at_least_fp32(value[:0]).dtype != value.dtype else 1
    count = max(1, (2**26 if value.is_cuda else 2**21) // max(4 * Q * K, copied))
    images, heads = max(1, count // N), min(count, N)
    return [(slice(b, b + images), slice(n, n + heads)) for b in range(0, B, images) for n in range(0, N, heads)]


class _Neighbours(NamedTuple):
    """The two neighbours of K points on each axis, (2 neighbours, 2 axes, B, Q, N, K), or (2, 2, B * Q * N, K).

    Neighbours outside the map have index 0 or size - 1 in `cells`, and no weight.
    """

    cells: Tensor  # int32
    weights: Tensor
    inside: Tensor

    def rows(self, shape: torch.Size, grid: Tensor) -> Tensor:
        """Rows of value (B * S * N, D) that each query and head samples, (B * Q * N, 4 * K)."""
        B, S, N, _ = shape
        x, y = self.cells.unbind(1)
        origins = cached_table(_origins, B, S, N, x.device)  # (B, 1, N)
        if y.ndim == 3:
            origins = origins.expand(B, y.shape[1] // (B * N), N).flatten()
        y = y * (grid[0] * N) + (grid[2] * N + origins[..., None])
        return _bags(y[:, None] + x * N)

    def products(self, a: Tensor) -> Tensor:
        """Attention weights a (B, Q, N, K) times the bilinear weights of the four cells, (B * Q * N, 4 * K)."""
        x, y = self.weights.unbind(1)
        return _bags((y * a)[:, None] * x)

    def backward(self, dots: Tensor, a: Tensor, grid: Tensor) -> tuple[Tensor, Tensor]:
        """Gradients of locations and attention weights. dots: gradients of `products`, (B * Q * N, 4 * K)."""
        x, y = self.weights.unbind(1)  # (2, B, Q, N, K)
        dots = dots.view(*x.shape[1:-1], 2, 2, x.shape[-1]).movedim((-3, -2), (0, 1))  # (y, x, B, Q, N, K)
        along_x, along_y = (dots * y[:, None]).sum(0), (dots * x).sum(1)  # (2, B, Q, N, K)
        products = (along_x * x).sum(0)
        first, second = torch.where(self.inside, torch.stack([along_x, along_y], 1), 0)  # (2 axes, B, Q, N, K)
        slopes = (second - first) * (a * grid[:2].view(2, 1, 1, 1, -1))
        return slopes.movedim(0, -1).reshape(*a.shape, 2), products.view(a.shape)


def _neighbours(locations: Tensor, grid: Tensor) -> _Neighbours:
    """locations: (B, Q, N, K, 2) or (B * Q * N, K, 2) in 0 ... 1."""
    size = grid[:2].view(2, *(1,) * (locations.ndim - 2), -1)
    position = locations.movedim(-1, 0).contiguous() * size - 0.5  # (2 axes, B, Q, N, K)
    low = position.floor()
    fraction = position - low
    neighbours = torch.stack([low, low + 1])
    inside = (neighbours >= 0) & (neighbours < size)
    weights = torch.where(inside, torch.stack([1 - fraction, fraction]), 0)
    cells = neighbours.int().clamp(min=0).minimum(size - 1)
    return _Neighbours(cells, weights, inside)


def _bags(x: Tensor) -> Tensor:
    """(2, 2, B, Q, N, K) -> (B * Q * N, 4 * K)."""
    return x.flatten(0, 1).movedim(0, -2).contiguous().view(-1, 4 * x.shape[-1])


def _origins(B: int, S: int, N: int, device: torch.device) -> Tensor:
    """Row of the first of S cells in (B * S * N, D) for each image and head, (B, 1, N)."""
    image = torch.arange(B, device=device, dtype=torch.int32)[:, None, None]
    return image * (S * N) + torch.arange(N, device=device, dtype=torch.int32)


def _bag_numbers(index: Tensor) -> Tensor:
    """(M * 4 * K,): the row of each entry of an index (M, 4 * K), whose rows are the bags."""
    return torch.arange(len(index), device=index.device, dtype=index.dtype).repeat_interleave(index.shape[1])


def _dots(grad: Tensor, rows: Tensor, index: Tensor) -> Tensor:
    """Product of each bag's gradient with each of its rows: the gradient of the weights of an `embedding_bag`.

    On a CPU this is a sampled dense-dense matrix product, which is faster than the backward pass of `embedding_bag`;
    its pattern cannot have more numbers than the dense matrix.
    """
    M, K = index.shape
    starts = torch.arange(0, M * K + 1, K, device=index.device, dtype=index.dtype)
    if not _on_eager_cpu(index) or len(rows) <= K:
        columns, numbers = index.view(-1), _bag_numbers(index)
        return torch.ops.aten._embedding_bag_per_sample_weights_backward(grad, rows, columns, starts[:-1], numbers, 0)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta")
        pattern = torch.sparse_csr_tensor(
            starts, index.view(-1), grad.new_zeros(M * K), (M, len(rows)), check_invariants=False
        )
    return torch.sparse.sampled_addmm(pattern, grad, rows.t(), beta=0.0).values()


def _scatter_add(grad: Tensor, index: Tensor, products: Tensor, length: int) -> Tensor:
    """Gradient of the rows of an `embedding_bag` with atomic additions on a GPU, in four parts to bound memory."""
    result = grad.new_zeros(length, grad.shape[1])
    for rows, w in zip(index.chunk(4, 1), products.chunk(4, 1), strict=True):
        result.index_add_(0, rows.reshape(-1), (grad[:, None] * w[..., None]).flatten(0, 1))
    return result


def _segment_sum(grad: Tensor, index: Tensor, products: Tensor, length: int) -> Tensor:
    """Gradient of the rows of an `embedding_bag` without atomic additions: sorts the index, and sums over runs of equal
    rows with an `embedding_bag` of the gradient."""
    rows, order = index.view(-1).sort(stable=True)
    if _on_eager_cpu(rows):  # a compiled graph would be specialised to the length
        starts = torch.ops.aten._convert_indices_from_coo_to_csr(rows, length, out_int32=True)
    else:
        starts = torch.searchsorted(
            rows, torch.arange(length + 1, device=rows.device, dtype=rows.dtype), out_int32=True
        )
    queries = _bag_numbers(index).index_select(0, order)
    products = products.view(-1).index_select(0, order)
    return F.embedding_bag(queries, grad, starts, mode="sum", per_sample_weights=products, include_last_offset=True)
