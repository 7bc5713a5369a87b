"""Measures of filters, positions and attention from the Vision Transformer papers."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from densevit_workbench.inspection.attention_layers import PADDING, AttentionLayer


def principal_components(filters: Tensor, count: int = 28) -> Tensor:
    """The first principal components of patch-embedding filters (Dosovitskiy et al. 2021, figure 7, left).

    filters: (C, 3, k, k). Returns (N, k, k, 3), N = min(count, C - 1, 3 * k * k), each scaled to 0 ... 1.
    """
    rows = filters.detach().double().flatten(1)
    rows = rows - rows.mean(0)
    components = torch.linalg.svd(rows, full_matrices=False).Vh[: min(count, len(rows) - 1, rows.shape[1])]
    # The sign of a component is arbitrary: its largest value is positive.
    largest = components.gather(1, components.abs().argmax(1, keepdim=True))
    components = components * largest.sign()
    low, high = components.amin(1, keepdim=True), components.amax(1, keepdim=True)
    scaled = (components - low) / (high - low).clamp(min=1e-12)
    return scaled.view(-1, *filters.shape[1:]).permute(0, 2, 3, 1).float()


def position_similarity(embeddings: Tensor) -> Tensor:
    """Cosine similarity of each cell's position embedding with those of all cells (figure 7, centre).

    embeddings: (H, W, C). Returns (H, W, H, W).
    """
    directions = F.normalize(embeddings.detach().float(), dim=-1)
    return torch.einsum("abc,hwc->abhw", directions, directions)


def mean_attention_distance(layer: AttentionLayer, size: tuple[int, int]) -> Tensor:
    """The mean distance in pixels between a query's cell and all others, weighted by attention.

    See Dosovitskiy et al. 2021, section 4.5 and figure 7, right. Distances are between centres of cells. Weights of
    tokens that are no cells are left out, and the others are scaled to a sum of 1. size: (H, W) of the image in pixels.
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


def dense_attention(layer: AttentionLayer, tokens: int) -> Tensor:
    """The mean over heads as one matrix (T + Q, T + K), with T tokens before the cells; rows sum to 1.

    A token for which the layer computes no attention attends to itself, such as a class token in windowed attention.
    """
    height, width = layer.query_grid
    keys = layer.key_grid[0] * layer.key_grid[1]
    matrix = torch.zeros(tokens + height * width, tokens + keys)
    for weights, query, key in zip(
        layer.weights.float().cpu().mean(1), layer.query_cells, layer.key_cells, strict=True
    ):
        from_, to = query != PADDING, key != PADDING
        rows, columns = (torch.where(x < 0, -1 - x, x + tokens) for x in (query[from_], key[to]))
        matrix[rows[:, None], columns] = weights[from_][:, to]
    if tokens and not layer.tokens:
        matrix[:tokens, :tokens] = torch.eye(tokens)
    return matrix / matrix.sum(1, keepdim=True)


def rollout(layers: Sequence[AttentionLayer]) -> Tensor | None:
    """Attention rollout (Abnar and Zuidema 2020, section 3): the product of (A + I) / 2 over the layers, (T, T).

    A: the mean over heads. Tokens that are no cells come first. None if the layers have different grids, for which
    rollout is not defined.
    """
    grids = {grid for layer in layers for grid in (layer.query_grid, layer.key_grid)}
    if len(grids) != 1:
        return None
    tokens = max(layer.tokens for layer in layers)
    result: Tensor | None = None
    for layer in layers:
        mixed = dense_attention(layer, tokens)
        mixed = (mixed + torch.eye(len(mixed))) / 2
        result = mixed if result is None else mixed @ result
    return result


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
