"""Integer arithmetic of image sides without branches, which `torch.export` can trace: exported files compute evaluation
sizes too (`densevit export --resize`)."""

import functools
from collections.abc import Sequence
from typing import cast

import torch

from densevit.interfaces import Size


def rounded_ratio(numerator: int, denominator: int) -> int:
    """Returns numerator / denominator, rounded half to even as by `round`."""
    doubled = 2 * numerator + denominator
    rounded, rest = doubled // (2 * denominator), doubled % (2 * denominator)
    return rounded - (1 - minimum(1, rest)) * (rounded % 2)


def resize_short_side(height: int, width: int, short: int, longest: int | None = None) -> Size:
    """Returns (h, w) with this short side, or smaller so that the long side is at most `longest`; rounded as in DETR's
    code."""
    low, high = minimum(height, width), maximum(height, width)
    if longest is not None:
        short = maximum(1, minimum(short, rounded_ratio(longest * low, high)))
    return maximum(1, short * height // low), maximum(1, short * width // low)


def scaled_by_least(side: int, scales: Sequence[tuple[int, int]]) -> int:
    """Returns a side times the smallest of these fractions (numerator, denominator), rounded half up; at least 1."""
    least = functools.reduce(minimum, ((2 * side * top + bottom) // (2 * bottom) for top, bottom in scales))
    return maximum(1, least)


def nearest_multiple(side: int, multiple: int | None, largest: int | None = None) -> int:
    """Returns the multiple nearest to a side, of two the larger one, at least one and at most `largest`; for None the
    side."""
    if multiple is None:
        return side
    count = maximum(1, (side + multiple // 2) // multiple)
    return multiple * (count if largest is None else minimum(count, maximum(1, largest // multiple)))


def minimum(a: int, b: int) -> int:
    """`min` without a branch, also for symbolic integers."""
    return cast(int, torch.sym_min(a, b))


def maximum(a: int, b: int) -> int:
    """`max` without a branch, also for symbolic integers."""
    return cast(int, torch.sym_max(a, b))
