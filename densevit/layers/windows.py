"""Shifted windows (Swin Transformer, Liu et al. 2021, section 3.2)."""

from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F


def partition(x: Tensor, window: int) -> Tensor:
    """Cuts a map into square windows.

    x: (B, H, W, C), with H and W multiples of `window`.
    Returns (B * H/M * W/M, M*M, C), the windows row by row. `merge` undoes it.
    """
    B, H, W, C = x.shape
    x = x.view(B, H // window, window, W // window, window, C)
    return x.transpose(2, 3).reshape(-1, window * window, C)


def merge(windows: Tensor, window: int, height: int, width: int) -> Tensor:
    """Puts windows back into a map, (B, H, W, C): the inverse of `partition`."""
    rows, columns = height // window, width // window
    x = windows.view(-1, rows, columns, window, window, windows.shape[-1])
    return x.transpose(2, 3).reshape(-1, height, width, windows.shape[-1])


class ShiftedWindows(NamedTuple):
    """How maps of one size are padded to whole windows, shifted and cut, and put together again: each in one copy.

    Padding, cyclic shift, partition and the split into heads are one permutation of rows of D numbers, and so is the
    way back; both directions of it are kept as indices, so that neither the forward nor the backward pass scatters.
    `shifted_windows` makes it.

    mask: (windows, M*M, M*M), or None where nothing was shifted; see `shift_mask`.
    """

    size: tuple[int, int]
    heads: int
    tokens: int
    mask: Tensor | None
    projected: tuple[Tensor, Tensor]  # rows of query, key and value: windows' from the map's, the map's from windows'
    mixed: tuple[Tensor, Tensor]  # the same for rows of one value a token and head
    padding: Tensor  # (3 * heads, P): rows in windows of what lies outside the map

    def cut(self, qkv: Tensor, outside: Tensor) -> Tensor:
        """Query, key and value of a map, window by window and head by head.

        qkv: (B, H, W, 3 C). outside: (3 C,), what padding holds. Returns (3, B * windows * heads, M*M, D).
        """
        D = qkv.shape[-1] // (3 * self.heads)
        fill = outside.to(qkv.dtype).view(-1, D) if self.padding.numel() else None
        rows = _Permutation.apply(qkv.reshape(-1, D), fill, *self.projected, self.padding)
        return rows.view(3, -1, self.tokens, D)

    def join(self, x: Tensor) -> Tensor:
        """The map, (B, H, W, C), of what was mixed in each window and head, (B * windows * heads, M*M, D)."""
        rows = _Permutation.apply(x.reshape(-1, x.shape[-1]), None, *reversed(self.mixed), self.padding)
        return rows.view(-1, *self.size, self.heads * x.shape[-1])


def shifted_windows(x: Tensor, window: int, shift: int, heads: int) -> ShiftedWindows:
    """The windows of maps like x, (B, H, W, ...), shifted down and right by `shift` cells.

    An axis of one window is not shifted: it has nothing to exchange with. Kept for the sizes that were used last.
    """
    B, H, W = x.shape[:3]
    make = _shifted_windows if torch.compiler.is_compiling() or type(x) is not Tensor else _kept_windows
    return make(B, H, W, window, shift, heads, x.dtype, x.device)


def _shifted_windows(
    B: int, H: int, W: int, window: int, shift: int, heads: int, dtype: torch.dtype, device: torch.device
) -> ShiftedWindows:
    height, width = H + -H % window, W + -W % window
    steps = tuple(shift if size > window else 0 for size in (height, width))
    cells = F.pad(torch.arange(H * W, device=device).view(H, W), (0, width - W, 0, height - H), value=-1)
    cells = partition(cells.roll((-steps[0], -steps[1]), dims=(0, 1))[None, :, :, None], window)[..., 0]
    windows, N = cells.shape
    slots = merge(torch.arange(windows * N, device=device).view(windows, N, 1), window, height, width)
    slots = slots[0, :, :, 0].roll(steps, dims=(0, 1))  # (height, width)
    outside = torch.cat([slots[:H, W:].flatten(), slots[H:].flatten()])

    def place(parts: int, slots: Tensor) -> Tensor:
        """Rows in windows, (parts, B, windows, heads, N), of slots, (P,): (B, P, parts, heads)."""
        part, image, head = (torch.arange(size, device=device) for size in (parts, B, heads))
        window = (part[:, None] * B + image[:, None, None, None]) * windows + slots[:, None, None] // N
        return (window * heads + head) * N + slots[:, None, None] % N

    def permutation(parts: int) -> tuple[Tensor, Tensor]:
        """Rows in a map, (B, H*W, parts, heads), for each in windows, and the reverse. Padding comes after the map."""
        part, image, head = (torch.arange(size, device=device) for size in (parts, B, heads))
        token = torch.where(cells < 0, B * H * W, cells + image[:, None, None] * (H * W))  # (B, windows, N)
        rows = (token[:, :, None] * parts + part[:, None, None, None, None]) * heads + head[:, None]
        return rows.flatten().int(), place(parts, slots[:H, :W].flatten()).flatten().int()

    padding = place(3, outside).flatten(0, 1).flatten(1).T.int()
    mask = shift_mask(height, width, window, (steps[0], steps[1]), device).to(dtype) if any(steps) else None
    return ShiftedWindows((H, W), heads, N, mask, permutation(3), permutation(1), padding)


@lru_cache(maxsize=32)
def _kept_windows(*size: Any) -> ShiftedWindows:
    with torch.inference_mode(False):  # training may use them after a prediction
        return _shifted_windows(*size)


class _Permutation(torch.autograd.Function):
    """rows[index], with `fill` after the rows where an index points beyond them. `back` is the reverse."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, fill: Tensor | None, index: Tensor, back: Tensor, filled: Tensor) -> Tensor:
        ctx.save_for_backward(index, back, filled)
        ctx.has_fill = fill is not None
        return (rows if fill is None else torch.cat([rows, fill])).index_select(0, index)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        _, back, filled = ctx.saved_tensors
        for_fill = grad[filled].sum(1) if ctx.has_fill else None
        if len(back) > len(grad):  # what was cropped has no part in the result
            grad = torch.cat([grad, grad.new_zeros(len(filled) // 3, grad.shape[1])])
        return grad.index_select(0, back), for_fill, None, None, None


def shift_mask(height: int, width: int, window: int, shift: tuple[int, int], device: torch.device) -> Tensor:
    """What a window of a cyclically shifted map must not see: parts that were no neighbours before it (figure 4).

    shift: (rows, columns) by which the map was rolled up and left; 0 for an axis that was not.
    Returns (H/M * W/M, M*M, M*M): 0 between tokens of one region, -100 between regions, as published weights expect.
    """
    rows, columns = (_parts(size, window, step, device) for size, step in ((height, shift[0]), (width, shift[1])))
    region = 3 * rows[:, None] + columns
    tokens = partition(region[None, :, :, None], window).squeeze(-1)  # (windows, M*M)
    return torch.where(tokens[:, :, None] == tokens[:, None, :], 0.0, -100.0)


def _parts(size: int, window: int, step: int, device: torch.device) -> Tensor:
    """(size,): which part a row or column is of; 1 and 2 share the last window, 2 having come from the other end."""
    place = torch.arange(size, device=device)
    if not step:
        return torch.zeros_like(place)
    return (place >= size - window).long() + (place >= size - step).long()


def relative_position_index(window: int) -> Tensor:
    """For each pair of tokens in a window, the row of the bias table that holds their offset. (M*M, M*M) long."""
    rows, columns = torch.meshgrid(torch.arange(window), torch.arange(window), indexing="ij")
    place = torch.stack([rows.flatten(), columns.flatten()])  # (2, M*M)
    offset = place[:, :, None] - place[:, None, :] + window - 1
    return offset[0] * (2 * window - 1) + offset[1]


def resize_bias_table(table: Tensor, window: int) -> Tensor:
    """A table of relative position biases for another window, by bicubic interpolation (as Swin's own code).

    table: ((2M - 1)^2, heads), rows as `relative_position_index` has them. Returns ((2 * window - 1)^2, heads).
    """
    heads, sides = table.shape[1], (round(len(table) ** 0.5), 2 * window - 1)
    if sides[0] ** 2 != len(table):
        raise ValueError(f"A bias table of a square window has (2 M - 1)^2 rows; this one has {len(table)}.")
    if sides[0] == sides[1]:
        return table
    maps = table.T.reshape(1, heads, sides[0], sides[0]).float()
    maps = F.interpolate(maps, size=(sides[1], sides[1]), mode="bicubic", align_corners=False)
    return maps.view(heads, -1).T.contiguous().to(table.dtype)


def log_spaced_offsets(window: int, pretrained_window: int) -> Tensor:
    """Where the rows of a bias table are on a logarithmic scale (Swin Transformer V2, Liu et al. 2022, equation 4).

    Offsets are relative to the largest of the window that the weights were trained with and scaled so that this one
    is 1 or -1. Returns ((2M - 1)^2, 2), rows as `relative_position_index` has them.
    """
    offset = torch.arange(1 - window, window) * (8 / max(pretrained_window - 1, 1))
    offset = offset.sign() * (1 + offset.abs()).log2() / 3
    return torch.cartesian_prod(offset, offset)
