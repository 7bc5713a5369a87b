"""Attention of fine queries to the coarse cells around them (NAF, Chambon et al. 2025, section 3.2), by gathering."""

from collections.abc import Iterator

import torch
from torch import Tensor

from densevit.layers.tracing import is_exporting

_SHARE = 4  # chunks gather at most this fraction of the output ...
_FEWEST = 1 << 17  # ... or this number of values


def neighbourhood_attention(
    queries: Tensor, keys: Tensor, values: Tensor, num_heads: int, kernel_size: int, cells: Tensor | None = None
) -> Tensor:
    """Averages the values of the kernel_size x kernel_size cells around each query, with softmax weights.

    At a border the window moves inward, as in NATTEN with a dilation of f and keys repeated f times; in a map with
    fewer cells, it has all of them. Without gradients, cells are computed in chunks, so that memory besides the
    arguments stays below twice an output of some megabytes.

    queries: (B, E, h * f, w * f). keys: (B, E, h, w). values: (B, C, h, w). cells: (B, 2), the rows and columns of
    cells inside of each image; None: all. E and C are multiples of num_heads. Returns (B, C, h * f, w * f).
    """
    B, C, h, w = values.shape
    f, E = queries.shape[-1] // w, queries.shape[1]
    q = queries.reshape(B, num_heads, -1, h, f, w, f)
    k, v = (x.reshape(B, num_heads, -1, h * w).transpose(2, 3).flatten(0, 2) for x in (keys, values))
    sizes = keys.new_tensor([[h, w]], dtype=torch.long) if cells is None else cells
    rows, columns = (_windows(n, sizes[:, i], kernel_size) for i, n in enumerate((h, w)))
    offsets = (torch.arange(B * num_heads, device=v.device) * (h * w)).view(B, num_heads, 1, 1)
    output = values.new_empty(B, num_heads, C // num_heads, h, f, w, f)
    for row, column in _chunks((h, w), C * f * f, kernel_size**2 * (E + C), B, queries.requires_grad, v.device):
        index = rows[:, row, :, None] * w + columns[:, column, None, :]  # (B or 1, n, k, k)
        outside = ((rows[:, row, :, None] < 0) | (columns[:, column, None, :] < 0)).flatten(2)[:, None, :, None]
        index = offsets + index.clamp(min=0).flatten(2)[:, None]  # (B, heads, n, k * k)
        x = q[:, :, :, row, :, column].flatten(4).permute(1, 2, 0, 4, 3)  # (B, heads, n, f * f, E / heads)
        scores = (x * x.shape[-1] ** -0.5) @ k[index].transpose(-1, -2)
        x = scores.masked_fill(outside, -torch.inf).softmax(-1).to(v.dtype) @ v[index]  # (B, heads, n, f * f, c)
        output[:, :, :, row, :, column] = x.permute(2, 0, 1, 4, 3).unflatten(4, (f, f)).to(output.dtype)
    return output.reshape(B, C, h * f, w * f)


def _windows(n: int, size: Tensor, kernel_size: int) -> Tensor:
    """The positions in the window of each of n cells, along one dimension: (B, n, kernel_size); negative outside.
    size: (B,), the number of cells inside."""
    first = torch.arange(n, device=size.device) - kernel_size // 2
    first = torch.minimum(first[None], (size - kernel_size)[:, None]).clamp(min=0)  # (B, n)
    positions = first[..., None] + torch.arange(kernel_size, device=size.device)
    return torch.where(positions < size[:, None, None], positions, -n * n)


def _chunks(
    grid: tuple[int, int], made: int, gathered: int, batch: int, keeps: bool, device: torch.device
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yields the rows and columns of cells, in chunks. made, gathered: values per cell in the output and from the
    neighbours. keeps: gathered values are kept for the gradient in any case; then, and in exported files, there is one
    chunk."""
    rows, columns = (torch.arange(n, device=device) for n in grid)
    cells = (rows[:, None].expand(grid).flatten(), columns.expand(grid).flatten())
    if keeps or is_exporting():
        return iter([cells])
    size = max(1, made * len(cells[0]) // (_SHARE * gathered), _FEWEST // (batch * gathered))
    return zip(*(x.split(size) for x in cells), strict=True)
