"""The positions of a plain vision transformer: added to the tokens, rotating queries and keys, or added to scores."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from densevit.layers.positions import Resizing, resize_grid, sine_grid_1d, sine_grid_2d
from densevit.layers.rotary import rotary_table
from densevit.layers.table_cache import cached_table

PositionType = Literal["learned", "sine1d", "sine2d", "rotary", "relative", "none"]


@dataclass(frozen=True)
class PositionEncoding:
    """No positions; the base class of the other types.

    side: the side in cells of the grid that tables are stored for. resizing: the interpolation for other grids, see
    `resize_grid`.
    """

    side: int
    resizing: Resizing
    has_table: ClassVar[bool] = False

    def added(self, table: Tensor | None, grid: tuple[int, int], channels: int, device: torch.device) -> Tensor | None:
        """The positions that are added to the cells of a grid, (H, W, C). table: the learned one, (S, S, C)."""
        return None

    def rotation(
        self, grid: tuple[int, int], channels: int, like: Tensor, window: int | None = None, first: int = 0
    ) -> Tensor | None:
        """The table for `rotate`, of all tokens, `first` of them before the cells, or of the cells of a window.

        channels: the channels of a head.
        """
        return None

    def bias(self, window: int | None, num_heads: int, has_tokens: bool) -> "RelativePositionBias | None":
        """The module that gives the bias of a block's attention scores. window: the side of its windows."""
        return None


class Learned(PositionEncoding):
    """A learned table (ViT, Dosovitskiy et al. 2021, equation 1)."""

    has_table = True

    def added(self, table: Tensor | None, grid: tuple[int, int], channels: int, device: torch.device) -> Tensor | None:
        return None if table is None else resize_grid(table, grid, self.resizing)


@dataclass(frozen=True)
class Sine(PositionEncoding):
    """Sines and cosines of the index (ViT, appendix D.4) or of row and column (MAE, He et al. 2022, appendix A.1)."""

    make: Callable[..., Tensor]

    def added(self, table: Tensor | None, grid: tuple[int, int], channels: int, device: torch.device) -> Tensor | None:
        return cached_table(_sine_table, self.make, self.side, self.resizing, grid, channels, device)


class Rotary(PositionEncoding):
    """Queries and keys are rotated by the position of their cell (DINOv3, Siméoni et al. 2025, section 3.2)."""

    def rotation(
        self, grid: tuple[int, int], channels: int, like: Tensor, window: int | None = None, first: int = 0
    ) -> Tensor | None:
        part = None if window is None else (window, window)
        return cached_table(rotary_table, grid, channels, like.device, part, first).to(like.dtype)


class Relative(PositionEncoding):
    """A learned bias per head and offset in each block (BEiT, Bao et al. 2022, section 2.1)."""

    def bias(self, window: int | None, num_heads: int, has_tokens: bool) -> "RelativePositionBias | None":
        return RelativePositionBias(window or self.side, num_heads, has_tokens and window is None, self.resizing)


POSITIONS: dict[PositionType, Callable[[int, Resizing], PositionEncoding]] = {
    "learned": Learned,
    "sine1d": partial(Sine, make=sine_grid_1d),
    "sine2d": partial(Sine, make=sine_grid_2d),
    "rotary": Rotary,
    "relative": Relative,
    "none": PositionEncoding,
}


def _sine_table(
    make: Callable[..., Tensor],
    side: int,
    resizing: Resizing,
    grid: tuple[int, int],
    channels: int,
    device: torch.device,
) -> Tensor:
    return resize_grid(make(side, side, channels, device), grid, resizing)


class RelativePositionBias(nn.Module):
    """Relative position bias: a learned number per head and offset from key to query, added to attention scores (BEiT,
    Bao et al. 2022, section 2.1; the table is Swin's).

    side: side of the grid for which the table is stored; it is resized for other grids (`resize_grid`).
    has_tokens: adds three rows for tokens, which have no offset: from a token to a cell, from a cell to a token, and
        from a token to a token.
    """

    def __init__(self, side: int, num_heads: int, has_tokens: bool, resizing: Resizing) -> None:
        super().__init__()
        self.side, self.resizing = side, resizing
        self.table = nn.Parameter(torch.zeros((2 * side - 1) ** 2 + 3 * has_tokens, num_heads))
        nn.init.trunc_normal_(self.table, std=0.02)

    def forward(self, grid: tuple[int, int], first: int = 0) -> Tensor:
        """Returns (heads, P + H * W, P + H * W) for a grid (H, W) after P = `first` tokens that are no cells."""
        H, W = grid
        offsets, tokens = self._parts(self.table)
        offsets = resize_grid(offsets, (2 * H - 1, 2 * W - 1), self.resizing)
        # The offset of query row i and key row j is at i + (H - 1 - j): a window of H from i on, in reverse order.
        cells = offsets.unfold(0, H, 1).unfold(1, W, 1).flip(3, 4)  # (H, W, heads, H, W)
        cells = cells.permute(2, 0, 1, 3, 4).reshape(-1, H * W, H * W)
        if first == 0:
            return cells
        to_cell, to_token, among = tokens[:, :, None, None].unbind(0)  # each (heads, 1, 1)
        token_rows = torch.cat([among.expand(-1, first, first), to_cell.expand(-1, first, H * W)], dim=2)
        cell_rows = torch.cat([to_token.expand(-1, H * W, first), cells], dim=2)
        return torch.cat([token_rows, cell_rows], dim=1)

    def carried_over(self, name: str, tensor: Tensor) -> tuple[Tensor, str] | None:
        """Resizes a table of another grid; see `densevit.weights.state_dict_loading.fit`."""
        if name != "table" or (len(tensor) - len(self.table)) % 4:  # the difference of two odd squares
            return None
        offsets, tokens = self._parts(tensor)
        side = 2 * self.side - 1
        return torch.cat([resize_grid(offsets, (side, side), self.resizing).flatten(0, 1), tokens]), "interpolated"

    @staticmethod
    def _parts(table: Tensor) -> tuple[Tensor, Tensor]:
        """The rows of offsets, (2 S - 1, 2 S - 1, heads), and the remaining rows."""
        side = math.isqrt(len(table))
        return table[: side * side].unflatten(0, (side, side)), table[side * side :]
