"""Measures of positions and attention from the Vision Transformer papers."""

import torch
from torch import Tensor
from torch.nn import functional as F

from densevit_workbench.inspection.attention_layers import AttentionLayer


def position_similarity(embeddings: Tensor) -> Tensor:
    """Cosine similarity between the position embeddings of all pairs of cells (figure 7, centre).

    embeddings: (H, W, C). Returns (H, W, H, W).
    """
    directions = F.normalize(embeddings.detach().float(), dim=-1)
    return torch.einsum("abc,hwc->abhw", directions, directions)


def mean_attention_distance(layer: AttentionLayer, size: tuple[int, int]) -> Tensor:
    """The mean distance in pixels between a query's cell and all others, weighted by attention.

    See Dosovitskiy et al. 2021, section 4.5 and figure 7, right. Distances are between centres of cells. Extra tokens
    are left out; the remaining weights are scaled to a sum of 1. size: (H, W) of the image in pixels.
    Returns (heads,).
    """
    query, key = (
        _centres(cells, grid, size)
        for cells, grid in ((layer.query_cells, layer.query_grid), (layer.key_cells, layer.key_grid))
    )
    distance = torch.cdist(query, key)[:, None]  # (G, 1, Q, K)
    weights = layer.weights.float().cpu() * (layer.key_cells >= 0)[:, None, None]
    per_query = (weights * distance).sum(-1) / weights.sum(-1).clamp(min=1e-12)  # (G, heads, Q)
    is_cell = (layer.query_cells >= 0)[:, None].expand_as(per_query)
    return (per_query * is_cell).sum((0, 2)) / is_cell.sum((0, 2))


def _centres(cells: Tensor, grid: tuple[int, int], size: tuple[int, int]) -> Tensor:
    """Pixel coordinates (y, x) of cells, (G, N, 2)."""
    rows, columns = cells.clamp(min=0) // grid[1], cells.clamp(min=0) % grid[1]
    return torch.stack([(rows + 0.5) * (size[0] / grid[0]), (columns + 0.5) * (size[1] / grid[1])], -1)


def query_maps(layer: AttentionLayer, point: tuple[float, float]) -> Tensor:
    """The attention of the cell at a point to all cells, (heads, h, w); 0 outside of the cell's window.

    point: (y, x) as fractions 0 ... 1 of the image.
    """
    height, width = layer.query_grid
    row, column = (min(int(at * side), side - 1) for at, side in zip(point, (height, width), strict=True))
    group, query = (layer.query_cells == row * width + column).nonzero()[0].tolist()
    weights, cells = layer.weights[group, :, query].float().cpu(), layer.key_cells[group]
    maps = torch.zeros(len(weights), layer.key_grid[0] * layer.key_grid[1])
    inside = cells >= 0
    maps[:, cells[inside]] = weights[:, inside]
    return maps.unflatten(1, layer.key_grid)
