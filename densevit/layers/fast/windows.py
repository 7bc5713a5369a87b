"""Shifted windows as one gather instead of padding, roll, partition and split into heads.

Computes `densevit.layers.windows.shifted_windows`, with equal results, 2.4 to 3.4 times as fast on a CPU
(docs/development/cpus.md). Compiled graphs and exported files use the separate steps: the compiler fuses them, and
tracing the indices with symbolic sizes would take minutes.
"""

from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from densevit.layers import windows as plain
from densevit.layers.windows import ShiftedWindows, ShiftRule, shift_mask, shift_steps, window_partition, window_reverse


def shifted_windows(
    x: Tensor, window: int, shift: int, heads: int, rule: ShiftRule = "per_axis"
) -> "GatheredWindows | ShiftedWindows":
    """`densevit.layers.windows.shifted_windows`; the indices of the most recent sizes are cached."""
    if torch.compiler.is_compiling():
        return plain.shifted_windows(x, window, shift, heads, rule)
    B, H, W = x.shape[:3]
    build = _cached_windows if type(x) is Tensor else _gathered_windows
    return build(B, H, W, window, shift, rule, heads, x.dtype, x.device)


class GatheredWindows(NamedTuple):
    """Padding, cyclic shift, window partition and split into heads as one gather; created by `shifted_windows`.

    All steps together are one permutation of rows of D = C / heads numbers. Its index and the inverse index are
    precomputed, so neither the forward nor the backward pass scatters.

    mask: (windows, M*M, M*M), or None without a shift; see `densevit.layers.windows.shift_mask`.
    """

    size: tuple[int, int]
    heads: int
    tokens: int
    mask: Tensor | None
    qkv_index: tuple[Tensor, Tensor]  # rows of query, key and value: map to windows, windows to map
    output_index: tuple[Tensor, Tensor]  # rows of the attention output: map to windows, windows to map
    padding: Tensor  # (3 * heads, P): rows in windows that are padding

    def partition(self, qkv: Tensor, padding_value: Tensor) -> Tensor:
        """Query, key and value per window and head; same arguments and result as `ShiftedWindows.partition`."""
        D = qkv.shape[-1] // (3 * self.heads)
        fill = padding_value.to(qkv.dtype).view(-1, D) if self.padding.numel() else None
        rows = _Permutation.apply(qkv.reshape(-1, D), fill, *self.qkv_index, self.padding)
        biased = self.heads if self.mask is None else self.heads * len(self.mask)
        return rows.view(3, -1, biased, self.tokens, D)

    def reverse(self, x: Tensor) -> Tensor:
        """Merges windows and heads; same argument and result as `ShiftedWindows.reverse`."""
        rows = _Permutation.apply(x.reshape(-1, x.shape[-1]), None, *reversed(self.output_index), self.padding)
        return rows.view(-1, *self.size, self.heads * x.shape[-1])


def _gathered_windows(
    B: int,
    H: int,
    W: int,
    window: int,
    shift: int,
    rule: ShiftRule,
    heads: int,
    dtype: torch.dtype,
    device: torch.device,
) -> GatheredWindows:
    height, width = H + -H % window, W + -W % window
    steps = shift_steps((height // window, width // window), window, shift, rule)
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
    return GatheredWindows((H, W), heads, N, mask, permutation(3), permutation(1), padding)


@lru_cache(maxsize=32)
def _cached_windows(*size: Any) -> GatheredWindows:
    with torch.inference_mode(False):  # the cached tensors can be used in training after a prediction
        return _gathered_windows(*size)


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
