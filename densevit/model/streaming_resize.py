"""Streaming resize and average of maps in horizontal strips, without a complete map in memory.

A strip is (C, rows, w), valid until the next one is requested. Strips run from top to bottom without gaps.
"""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from densevit.model.sliding_window import Size

MAX_STRIP_NUMEL = 2**23  # values resized or decoded in one step: 32 MB


def resized(strips: Iterator[Tensor], source: Size, target: Size) -> Iterator[Tensor]:
    """Resizes a map of size `source`, given in strips, to `target`: bilinear, align_corners=False.

    The concatenated strips equal `F.interpolate` of the complete map; the last row of a strip waits for the row below.
    """
    if source == target:
        for strip in strips:
            yield from strip.split(_rows_at_once(strip, source[1]), dim=1)
        return
    buffer: Tensor | None = None  # source rows from `first` on
    first = done = 0  # the first source row of the buffer; the number of yielded target rows
    for strip in strips:
        step = _rows_at_once(strip, max(source[1], target[1]))
        for part in strip.split(step, dim=1):
            buffer = part if buffer is None else torch.cat([buffer, part], dim=1)
            available = first + buffer.shape[1]
            ready = target[0] if available == source[0] else _rows_above(available, source[0], target[0])
            for top in range(done, ready, step):
                yield _resized_rows(buffer, first, (top, min(top + step, ready)), source, target)
            done = max(done, ready)
            needed = min(max((2 * done + 1) * source[0] - target[0], 0) // (2 * target[0]), available)
            buffer, first = buffer[:, needed - first :].clone(), needed


def _rows_above(available: int, source: int, target: int) -> int:
    """The number of target rows that need only the first `available` source rows. Row y is at ((2y + 1) s - t) / 2t."""
    return (((2 * available - 1) * target - 1) // source + 1) // 2


def _resized_rows(buffer: Tensor, first: int, rows: tuple[int, int], source: Size, target: Size) -> Tensor:
    """Rows of the resized map from source rows that begin at `first`. Integer arithmetic is exact at any height."""
    y = (2 * torch.arange(*rows, device=buffer.device) + 1) * source[0] - target[0]
    y = y.clamp(min=0)
    above = y // (2 * target[0])
    below = (above + 1).clamp(max=first + buffer.shape[1] - 1)  # clamped where its weight is 0
    fraction = (y % (2 * target[0])).to(buffer.dtype) / (2 * target[0])
    x = torch.lerp(buffer.index_select(1, above - first), buffer.index_select(1, below - first), fraction[:, None])
    if source[1] == target[1]:
        return x
    return F.interpolate(x[None], size=(x.shape[1], target[1]), mode="bilinear", align_corners=False)[0]


def averaged(streams: Sequence[Iterator[Tensor]], height: int, lockstep: bool) -> Iterator[Tensor]:
    """Yields the mean of several maps of one size, each given in strips.

    height: the maps' height. lockstep: advances the map that is furthest behind, which keeps the buffer small;
    otherwise reads one map after another, so that only one is computed at a time.
    """
    if len(streams) == 1:
        yield from streams[0]
        return
    buffer: Tensor | None = None  # the sum so far, from row `first` on
    first, ends = 0, [0] * len(streams)
    while first < height:
        i = min(range(len(ends)), key=lambda i: ends[i] if lockstep else ends[i] == height)
        strip = next(streams[i])
        begin, ends[i] = ends[i], ends[i] + strip.shape[1]
        if buffer is None:
            buffer = strip.new_zeros(strip.shape[0], 0, strip.shape[2])
        missing = (max(ends) if lockstep else height) - first - buffer.shape[1]
        if missing > 0:
            buffer = torch.cat([buffer, buffer.new_zeros(buffer.shape[0], missing, buffer.shape[2])], dim=1)
        buffer[:, begin - first : ends[i] - first].add_(strip, alpha=1 / len(streams))
        ready = min(ends) - first
        if ready:
            yield buffer[:, :ready]
            buffer, first = buffer[:, ready:].clone(), first + ready


def _rows_at_once(strip: Tensor, width: int) -> int:
    return max(1, MAX_STRIP_NUMEL // (strip.shape[0] * width))
