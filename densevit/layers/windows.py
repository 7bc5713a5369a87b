"""Window partitioning for shifted-window attention (Swin Transformer, Liu et al. 2021, section 3.2)."""

from functools import lru_cache
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from densevit.layers.tracing import is_exporting

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
    """Padding, cyclic shift, window partition and split into heads as one gather; created by `shifted_windows`.

    All steps together are one permutation of rows of D = C / heads numbers. Its index and the inverse index are
    precomputed, so neither the forward nor the backward pass scatters.

    mask: (windows, M*M, M*M), or None without a shift; see `shift_mask`.
    """

    size: tuple[int, int]
    heads: int
    tokens: int
    mask: Tensor | None
    qkv_index: tuple[Tensor, Tensor]  # rows of query, key and value: map to windows, windows to map
    output_index: tuple[Tensor, Tensor]  # rows of the attention output: map to windows, windows to map
    padding: Tensor  # (3 * heads, P): rows in windows that are padding

    def partition(self, qkv: Tensor, padding_value: Tensor) -> Tensor:
        """Query, key and value per window and head.

        qkv: (B, H, W, 3 C). padding_value: (3 C,). Returns (3, B, windows * heads, M*M, D) with a mask, and
        (3, B * windows, heads, M*M, D) without, because a bias per head is then the same for all windows.
        """
        D = qkv.shape[-1] // (3 * self.heads)
        fill = padding_value.to(qkv.dtype).view(-1, D) if self.padding.numel() else None
        rows = _Permutation.apply(qkv.reshape(-1, D), fill, *self.qkv_index, self.padding)
        biased = self.heads if self.mask is None else self.heads * len(self.mask)
        return rows.view(3, -1, biased, self.tokens, D)

    def reverse(self, x: Tensor) -> Tensor:
        """Merges windows and heads: a value as `partition` returns it -> (B, H, W, C)."""
        rows = _Permutation.apply(x.reshape(-1, x.shape[-1]), None, *reversed(self.output_index), self.padding)
        return rows.view(-1, *self.size, self.heads * x.shape[-1])


class PaddedWindows(NamedTuple):
    """`ShiftedWindows` as separate steps on views, for `torch.compile` and `torch.export` with symbolic sizes.

    The compiler fuses the steps; for precomputed indices, tracing with symbolic sizes would take minutes.
    grid: rows and columns of windows. steps: cells by which the map is rolled up and left.
    """

    batch: int
    size: tuple[int, int]
    grid: tuple[int, int]
    window: int
    steps: tuple[int, int]
    heads: int
    mask: Tensor | None

    def partition(self, qkv: Tensor, padding_value: Tensor) -> Tensor:
        """Pads, rolls and partitions the map; arguments and result are those of `ShiftedWindows.partition`."""
        (H, W), (rows, columns), M = self.size, self.grid, self.window
        border = (0, 0, 0, columns * M - W, 0, rows * M - H)
        down, right = (torch.arange(count * M, device=qkv.device) for count in self.grid)
        inside = ((down[:, None] < H) & (right < W))[..., None]
        x = self._rolled(torch.where(inside, F.pad(qkv, border), padding_value.to(qkv.dtype)), self.steps)
        D = qkv.shape[-1] // (3 * self.heads)
        x = x.view(self.batch, rows, M, columns, M, 3, self.heads, D).permute(5, 0, 1, 3, 6, 2, 4, 7)
        return x.reshape(3, *self._groups(), M * M, D)

    def reverse(self, x: Tensor) -> Tensor:
        """Inverse of `partition`; arguments and result are those of `ShiftedWindows.reverse`."""
        (H, W), (rows, columns), M = self.size, self.grid, self.window
        x = x.reshape(self.batch, rows, columns, self.heads, M, M, x.shape[-1]).permute(0, 1, 4, 2, 5, 3, 6)
        x = x.reshape(self.batch, rows * M, columns * M, self.heads * x.shape[-1])
        x = self._rolled(x, (rows * M - self.steps[0], columns * M - self.steps[1]))[:, :H, :W]
        return x.clone(memory_format=torch.contiguous_format)  # one code path with and without padding

    def _groups(self) -> tuple[int, int]:
        windows = self.grid[0] * self.grid[1]
        if self.mask is None:
            return self.batch * windows, self.heads
        return self.batch, windows * self.heads

    def _rolled(self, x: Tensor, steps: tuple[int, int]) -> Tensor:
        """Rolls x up and left. `Tensor.roll` is exported only with constant steps."""
        if not is_exporting():
            return x.roll((-steps[0], -steps[1]), dims=(1, 2))
        for axis, (count, step) in enumerate(zip(self.grid, steps, strict=True), start=1):
            side = count * self.window
            index = torch.arange(side, device=x.device) + step
            x = x.index_select(axis, torch.where(index < side, index, index - side))
        return x


def shifted_windows(
    x: Tensor, window: int, shift: int, heads: int, rule: ShiftRule = "per_axis"
) -> ShiftedWindows | PaddedWindows:
    """Windows of feature maps of the size of x, (B, H, W, ...), shifted down and right by `shift` cells.

    rule: the shift of an axis with only one window; see `shift_steps`. The most recent sizes are cached.
    """
    B, H, W = x.shape[:3]
    if torch.compiler.is_compiling() or is_exporting():
        return _padded_windows(B, H, W, window, shift, rule, heads, x.dtype, x.device)
    build = _cached_windows if type(x) is Tensor else _shifted_windows
    return build(B, H, W, window, shift, rule, heads, x.dtype, x.device)


def shift_steps(grid: tuple[int, int], shift: int, rule: ShiftRule) -> tuple[int, int]:
    """Cells by which a map of `grid` rows and columns of windows is rolled up and left.

    rule: where an axis has only one window, "per_axis" does not shift this axis (torchvision, timm), "both_axes" shifts
    neither axis (Swin's code for classification), and "dense" shifts both (its code for detection and segmentation).
    """
    rows, columns = grid
    if rule == "dense":
        return shift, shift
    if rule == "both_axes":
        rows = columns = min(grid)
    return shift if rows > 1 else 0, shift if columns > 1 else 0


def _padded_windows(
    B: int,
    H: int,
    W: int,
    window: int,
    shift: int,
    rule: ShiftRule,
    heads: int,
    dtype: torch.dtype,
    device: torch.device,
) -> PaddedWindows:
    rows, columns = (H + window - 1) // window, (W + window - 1) // window
    steps: Any
    if is_exporting() and rule != "dense":  # the same graph for one window and for several
        counts = (rows, columns) if rule == "per_axis" else 2 * (torch.sym_min(rows, columns),)
        steps = tuple(torch.sym_min(shift, (count - 1) * window) if shift else 0 for count in counts)
        shifts = shift > 0
    else:
        steps = shift_steps((rows, columns), shift, rule)
        shifts = any(steps)
    mask = shift_mask(rows * window, columns * window, window, steps, device).to(dtype) if shifts else None
    return PaddedWindows(B, (H, W), (rows, columns), window, steps, heads, mask)


def _shifted_windows(
    B: int,
    H: int,
    W: int,
    window: int,
    shift: int,
    rule: ShiftRule,
    heads: int,
    dtype: torch.dtype,
    device: torch.device,
) -> ShiftedWindows:
    height, width = H + -H % window, W + -W % window
    steps = shift_steps((height // window, width // window), shift, rule)
    cells = F.pad(torch.arange(H * W, device=device).view(H, W), (0, width - W, 0, height - H), value=-1)
    cells = window_partition(cells.roll((-steps[0], -steps[1]), dims=(0, 1))[None, :, :, None], window)[..., 0]
    windows, N = cells.shape
    slots = window_reverse(torch.arange(windows * N, device=device).view(windows, N, 1), window, height, width)
    slots = slots[0, :, :, 0].roll(steps, dims=(0, 1))  # (height, width)
    padded = torch.cat([slots[:H, W:].flatten(), slots[H:].flatten()])

    def window_rows(parts: int, slots: Tensor) -> Tensor:
        """Rows of slots (P,) in windows laid out as (parts, B, windows, heads, N). Returns (B, P, parts, heads)."""
        part, image, head = (torch.arange(size, device=device) for size in (parts, B, heads))
        window = (part[:, None] * B + image[:, None, None, None]) * windows + slots[:, None, None] // N
        return (window * heads + head) * N + slots[:, None, None] % N

    def permutation(parts: int) -> tuple[Tensor, Tensor]:
        """Index from windows to rows of a map (B, H*W, parts, heads), padding after the map, and its inverse."""
        part, image, head = (torch.arange(size, device=device) for size in (parts, B, heads))
        token = torch.where(cells < 0, B * H * W, cells + image[:, None, None] * (H * W))  # (B, windows, N)
        rows = (token[:, :, None] * parts + part[:, None, None, None, None]) * heads + head[:, None]
        return rows.flatten().int(), window_rows(parts, slots[:H, :W].flatten()).flatten().int()

    padding = window_rows(3, padded).flatten(0, 1).flatten(1).T.int()
    mask = shift_mask(height, width, window, steps, device).to(dtype) if any(steps) else None
    return ShiftedWindows((H, W), heads, N, mask, permutation(3), permutation(1), padding)


@lru_cache(maxsize=32)
def _cached_windows(*size: Any) -> ShiftedWindows:
    with torch.inference_mode(False):  # the cached tensors can be used in training after a prediction
        return _shifted_windows(*size)


class _Permutation(torch.autograd.Function):
    """Gathers rows[index]; indices beyond the rows point into `fill`. `inverse` is the inverse index."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, fill: Tensor | None, index: Tensor, inverse: Tensor, filled: Tensor) -> Tensor:
        ctx.save_for_backward(index, inverse, filled)
        ctx.has_fill = fill is not None
        return (rows if fill is None else torch.cat([rows, fill])).index_select(0, index)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        _, inverse, filled = ctx.saved_tensors
        grad_fill = grad[filled].sum(1) if ctx.has_fill else None
        if len(inverse) > len(grad):  # cropped rows have no gradient
            grad = torch.cat([grad, grad.new_zeros(len(filled) // 3, grad.shape[1])])
        return grad.index_select(0, inverse), grad_fill, None, None, None


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
    if isinstance(step, int) and not step:
        return torch.zeros_like(index)
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
            f"A relative position bias table has {len(table)} rows; expected (2 M - 1)^2 for a square window M."
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
