"""Maps in strips: resized and averaged from the top down without the whole of them ever being there.

A strip is (C, rows, w), valid until the next is asked for; strips follow one another without a gap.
"""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from densevit.model.sliding_window import Size

NUMBERS_AT_ONCE = 2**23  # of maps that are resized or read: 32 MB


def resized(strips: Iterator[Tensor], source: Size, target: Size) -> Iterator[Tensor]:
    """Strips of a map of `source` size as strips of that map resized to `target`: bilinear, align_corners off.

    What they show together is what `F.interpolate` makes of the whole map: a strip waits for the row below it.
    """
    if source == target:
        for strip in strips:
            yield from strip.split(_rows_at_once(strip, source[1]), dim=1)
        return
    held: Tensor | None = None  # source rows from `first` on
    first = done = 0  # a row of the source; rows of the target that were handed on
    for strip in strips:
        step = _rows_at_once(strip, max(source[1], target[1]))
        for part in strip.split(step, dim=1):
            held = part if held is None else torch.cat([held, part], dim=1)
            known = first + held.shape[1]
            ready = target[0] if known == source[0] else _rows_above(known, source[0], target[0])
            for top in range(done, ready, step):
                yield _resized_rows(held, first, (top, min(top + step, ready)), source, target)
            done = max(done, ready)
            needed = min(max((2 * done + 1) * source[0] - target[0], 0) // (2 * target[0]), known)
            held, first = held[:, needed - first :].clone(), needed


def _rows_above(known: int, source: int, target: int) -> int:
    """How many target rows lie on the first `known` source rows alone. Row y lies at ((2y + 1) s - t) / 2t."""
    return (((2 * known - 1) * target - 1) // source + 1) // 2


def _resized_rows(held: Tensor, first: int, rows: tuple[int, int], source: Size, target: Size) -> Tensor:
    """Rows of the resized map, from source rows that begin at `first`. In whole numbers, and so exact at any height."""
    y = (2 * torch.arange(*rows, device=held.device) + 1) * source[0] - target[0]
    y = y.clamp(min=0)
    above = y // (2 * target[0])
    below = (above + 1).clamp(max=first + held.shape[1] - 1)  # the last row, or one that counts 0
    part = (y % (2 * target[0])).to(held.dtype) / (2 * target[0])
    x = torch.lerp(held.index_select(1, above - first), held.index_select(1, below - first), part[:, None])
    if source[1] == target[1]:
        return x
    return F.interpolate(x[None], size=(x.shape[1], target[1]), mode="bilinear", align_corners=False)[0]


def averaged(streams: Sequence[Iterator[Tensor]], height: int, lockstep: bool) -> Iterator[Tensor]:
    """The mean of maps of one size, each of them given in strips.

    height: of the maps. lockstep: ask the one that is furthest behind, so that little of the mean is held; else one
    after another, so that one map is worked on at a time.
    """
    if len(streams) == 1:
        yield from streams[0]
        return
    held: Tensor | None = None  # the sum so far, from row `first` on
    first, ends = 0, [0] * len(streams)
    while first < height:
        i = min(range(len(ends)), key=lambda i: ends[i] if lockstep else ends[i] == height)
        strip = next(streams[i])
        begin, ends[i] = ends[i], ends[i] + strip.shape[1]
        if held is None:
            held = strip.new_zeros(strip.shape[0], 0, strip.shape[2])
        missing = (max(ends) if lockstep else height) - first - held.shape[1]
        if missing > 0:
            held = torch.cat([held, held.new_zeros(held.shape[0], missing, held.shape[2])], dim=1)
        held[:, begin - first : ends[i] - first].add_(strip, alpha=1 / len(streams))
        ready = min(ends) - first
        if ready:
            yield held[:, :ready]
            held, first = held[:, ready:].clone(), first + ready


def _rows_at_once(strip: Tensor, width: int) -> int:
    return max(1, NUMBERS_AT_ONCE // (strip.shape[0] * width))
