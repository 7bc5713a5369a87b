"""Window partitioning for shifted-window attention (Swin Transformer, Liu et al. 2021, section 3.2)."""

from typing import Literal, NamedTuple, cast

import torch
from torch import Tensor
from torch.nn import functional as F

from densevit.layers.tracing import rolled

ShiftRule = Literal["per_axis", "both_axes", "dense"]  # see `shift_steps`


def window_partition(x: Tensor, window: int) -> Tensor:
    """Partitions a feature map into non-overlapping square windows.

    x: (B, H, W, C), H and W multiples of `window`.
    Returns (B * H/M * W/M, M*M, C), windows in row-major order. Inverse: `window_reverse`.
    """
    B, H, W, C = x.shape
    x = x.view(B, H // window, window, W // window, window, C)
    return x.transpose(2, 3).reshape(-1, window * window, C)


def window_reverse(windows: Tensor, window: int, height: int, width: int) -> Tensor:
    """Inverse of `window_partition`. Returns a feature map (B, H, W, C)."""
    rows, columns = height // window, width // window
    x = windows.view(-1, rows, columns, window, window, windows.shape[-1])
    return x.transpose(2, 3).reshape(-1, height, width, windows.shape[-1])


class ShiftedWindows(NamedTuple):
    """Windows of feature maps (batch, *size) in several heads; created by `shifted_windows`.

    grid: rows and columns of windows. steps: cells by which the map is rolled up and left. mask: (windows, M*M, M*M),
    or None without a shift; see `shift_mask`.
    """

    batch: int
    size: tuple[int, int]
    grid: tuple[int, int]
    window: int
    steps: tuple[int, int]
    heads: int
    mask: Tensor | None

    def partition(self, qkv: Tensor, padding_value: Tensor) -> Tensor:
        """Query, key and value per window and head: pads the map to whole windows, rolls and partitions it.

        qkv: (B, H, W, 3 C). padding_value: (3 C,). Returns (3, B, windows * heads, M*M, D) with a mask, and
        (3, B * windows, heads, M*M, D) without, because a bias per head is then the same for all windows.
        """
        (H, W), (rows, columns), M = self.size, self.grid, self.window
        border = (0, 0, 0, columns * M - W, 0, rows * M - H)
        down, right = (torch.arange(count * M, device=qkv.device) for count in self.grid)
        inside = ((down[:, None] < H) & (right < W))[..., None]
        x = rolled(torch.where(inside, F.pad(qkv, border), padding_value.to(qkv.dtype)), self.steps)
        D, windows = qkv.shape[-1] // (3 * self.heads), rows * columns
        # At most six dimensions: ExecuTorch's XNNPACK takes no more.
        x = window_partition(x, M).view(self.batch * windows, M * M, 3, self.heads, D).permute(2, 0, 3, 1, 4)
        groups = (self.batch * windows, self.heads) if self.mask is None else (self.batch, windows * self.heads)
        return x.reshape(3, *groups, M * M, D)

    def reverse(self, x: Tensor) -> Tensor:
        """Merges windows and heads: query, key or value as `partition` returns it -> (B, H, W, C)."""
        (H, W), (rows, columns), M = self.size, self.grid, self.window
        x = x.reshape(self.batch * rows * columns, self.heads, M * M, x.shape[-1]).transpose(1, 2).flatten(2)
        x = window_reverse(x, M, rows * M, columns * M)
        x = rolled(x, (rows * M - self.steps[0], columns * M - self.steps[1]))[:, :H, :W]
        return x.clone(memory_format=torch.contiguous_format)  # the same graph with and without padding


def shifted_windows(x: Tensor, window: int, shift: int, heads: int, rule: ShiftRule = "per_axis") -> ShiftedWindows:
    """Windows of feature maps of the size of x, (B, H, W, ...), shifted down and right by `shift` cells.

    rule: the shift of an axis with only one window; see `shift_steps`. Modules keep this function in an attribute,
    which `densevit.layers.fast` replaces.
    """
    B, H, W = x.shape[:3]
    rows, columns = (H + window - 1) // window, (W + window - 1) // window
    steps = shift_steps((rows, columns), window, shift, rule)
    mask = shift_mask(rows * window, columns * window, window, steps, x.device).to(x.dtype) if shift else None
    return ShiftedWindows(B, (H, W), (rows, columns), window, steps, heads, mask)


def shift_steps(grid: tuple[int, int], window: int, shift: int, rule: ShiftRule) -> tuple[int, int]:
    """Cells by which a map of `grid` rows and columns of windows is rolled up and left.

    rule: where an axis has only one window, "per_axis" does not shift this axis (torchvision, timm), "both_axes" shifts
    neither axis (Swin's code for classification), and "dense" shifts both (its code for detection and segmentation).
    """
    rows, columns = grid
    if rule == "dense" or not shift:
        return shift, shift
    if rule == "both_axes":
        rows = columns = cast(int, torch.sym_min(rows, columns))
    # With symbolic sizes, the same graph for one window and for several: a shift is less than a window.
    vertical, horizontal = (torch.sym_min(shift, (count - 1) * window) for count in (rows, columns))
    return cast(int, vertical), cast(int, horizontal)


def shift_mask(height: int, width: int, window: int, shift: tuple[int, int], device: torch.device) -> Tensor:
    """Attention mask of a cyclically shifted map: separates regions that were not adjacent before the shift (figure 4).

    shift: (rows, columns) by which the map was rolled up and left; 0 for an axis without a shift.
    Returns (H/M * W/M, M*M, M*M): 0 within a region, -100 between regions, as published weights expect.
    """
    rows, columns = (_regions(size, window, step, device) for size, step in ((height, shift[0]), (width, shift[1])))
    region = 3 * rows[:, None] + columns
    tokens = window_partition(region[None, :, :, None], window).squeeze(-1)  # (windows, M*M)
    return torch.where(tokens[:, :, None] == tokens[:, None, :], 0.0, -100.0)


def _regions(size: int, window: int, step: int, device: torch.device) -> Tensor:
    """Region index of each row or column, (size,); 1 and 2 share the last window, 2 was wrapped around."""
    index = torch.arange(size, device=device)
    return (index >= size - window).long() + (index >= size - step).long()


def relative_position_index(window: int) -> Tensor:
    """Row of the relative position bias table for each pair of tokens of a window, (M*M, M*M) int64."""
    rows, columns = torch.meshgrid(torch.arange(window), torch.arange(window), indexing="ij")
    coords = torch.stack([rows.flatten(), columns.flatten()])  # (2, M*M)
    offset = coords[:, :, None] - coords[:, None, :] + window - 1
    return offset[0] * (2 * window - 1) + offset[1]


def resize_bias_table(table: Tensor, window: int) -> Tensor:
    """Resizes a relative position bias table to another window by bicubic interpolation, as in Swin's code.

    table: ((2M - 1)^2, heads), rows ordered as in `relative_position_index`. Returns ((2 * window - 1)^2, heads).
    """
    heads, sides = table.shape[1], (round(len(table) ** 0.5), 2 * window - 1)
    if sides[0] ** 2 != len(table):
        raise ValueError(
            f"A relative position bias table has {len(table)} rows; expected (2 M - 1)^2 for windows of M x M."
        )
    if sides[0] == sides[1]:
        return table
    maps = table.T.reshape(1, heads, sides[0], sides[0]).float()
    maps = F.interpolate(maps, size=(sides[1], sides[1]), mode="bicubic", align_corners=False)
    return maps.view(heads, -1).T.contiguous().to(table.dtype)


def log_spaced_offsets(window: int, pretrained_window: int) -> Tensor:
    """Log-spaced continuous coordinates of the bias table rows (Swin Transformer V2, Liu et al. 2022, equation 4).

    The largest offset in `pretrained_window`, the window that the weights were trained with, maps to 1 or -1.
    Returns ((2M - 1)^2, 2), rows ordered as in `relative_position_index`.
    """
    offset = torch.arange(1 - window, window) * (8 / max(pretrained_window - 1, 1))
    offset = offset.sign() * (1 + offset.abs()).log2() / 3
    return torch.cartesian_prod(offset, offset)
