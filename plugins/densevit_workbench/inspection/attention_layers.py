"""Attention weights of a backbone's layers on the cells of its maps."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from densevit.layers.windows import ShiftRule, shift_steps

Grid = tuple[int, int]

PADDING = -(2**31)  # cell index of a token that is padding
MOST_TOKENS = 16  # class, distillation and register tokens before the cells


class RecordedAttention(NamedTuple):
    """Attention weights of a module for one image, softmax over the last axis.

    name: the module's name in the backbone or head. weights: (..., queries, keys), as computed by the module.
    """

    name: str
    module: Any  # an nn.Module with additional attributes
    weights: Tensor


@dataclass(frozen=True)
class AttentionLayer:
    """One layer's attention for one image, in G groups with separate attention: G windows, or 1 if it is global.

    weights: (G, heads, Q, K). query_cells: (G, Q), key_cells: (G, K): the cell of each token, row by row in
    `query_grid` and `key_grid`, (height, width); -1, -2, ... for the first, second, ... extra token, such as the class
    token; PADDING for padding. window: the side of the windows in cells; None if attention is global.
    """

    name: str
    weights: Tensor
    query_cells: Tensor
    key_cells: Tensor
    query_grid: Grid
    key_grid: Grid
    window: int | None = None

    @property
    def tokens(self) -> int:
        """The number of extra tokens, such as the class token."""
        cells = self.query_cells
        return int(-cells[cells != PADDING].min().clamp(max=0))


def grid_of(size: tuple[int, int], stride: int) -> Grid:
    """(height, width) of the map of this stride: ceil(size / stride)."""
    return -(-size[0] // stride), -(-size[1] // stride)


def global_layer(name: str, weights: Tensor, query_grid: Grid, key_grid: Grid | None = None) -> AttentionLayer:
    """A layer of global attention. weights: (1, heads, P + h * w, P + h' * w'), with P tokens before the cells."""
    key_grid = key_grid or query_grid
    cells = [
        torch.arange(count) - (count - grid[0] * grid[1])
        for count, grid in ((weights.shape[-2], query_grid), (weights.shape[-1], key_grid))
    ]
    query_cells, key_cells = (torch.where(x < 0, -1 - torch.arange(len(x)), x)[None] for x in cells)
    return AttentionLayer(name, weights, query_cells, key_cells, query_grid, key_grid)


def windowed_layer(
    name: str, weights: Tensor, grid: Grid, window: int, shift: int = 0, rule: ShiftRule = "per_axis"
) -> AttentionLayer:
    """A layer of attention in square windows of a map, padded at the right and bottom, and rolled up and left by
    `shift`.

    weights: (windows, heads, M*M, M*M) or any shape of the same order. rule: the shift of an axis with only one window;
    see `densevit.layers.windows.shift_steps`.
    """
    height, width = (side + -side % window for side in grid)
    steps = shift_steps((height // window, width // window), window, shift, rule)
    cells = torch.arange(grid[0] * grid[1]).view(grid)
    cells = F.pad(cells, (0, width - grid[1], 0, height - grid[0]), value=PADDING).roll((-steps[0], -steps[1]), (0, 1))
    cells = cells.view(height // window, window, width // window, window).transpose(1, 2).reshape(-1, window * window)
    count, N = cells.shape
    return AttentionLayer(name, weights.reshape(count, -1, N, N), cells, cells, grid, grid, window)


def layers_on_grids(recorded: Sequence[RecordedAttention], grids: Sequence[Grid]) -> list[AttentionLayer]:
    """Layers of global self-attention over a map of one of the grids, with at most MOST_TOKENS extra tokens."""
    layers = []
    for name, _, weights in recorded:
        if weights.ndim != 4 or len(weights) != 1 or weights.shape[-1] != weights.shape[-2]:
            continue
        extra = {weights.shape[-1] - height * width: (height, width) for height, width in reversed(grids)}
        fitting = [count for count in extra if 0 <= count <= MOST_TOKENS]
        if fitting:
            layers.append(global_layer(name, weights, extra[min(fitting)]))
    return layers
