"""Exact integer arithmetic of image sides, without branches, so that `torch.export` can trace it with symbols."""

from typing import cast

import torch

from densevit.interfaces import Size


def rounded_ratio(numerator: int, denominator: int) -> int:
    """Returns the fraction, rounded half to even as by `round`."""
    doubled = 2 * numerator + denominator
    rounded, rest = doubled // (2 * denominator), doubled % (2 * denominator)
    return rounded - (1 - minimum(1, rest)) * (rounded % 2)


def resize_short_side(height: int, width: int, short: int, longest: int | None = None) -> Size:
    """Returns (h, w) with this short side, or smaller if the long side would exceed `longest`; rounded as in DETR's
    code."""
    low, high = minimum(height, width), maximum(height, width)
    if longest is not None:
        short = maximum(1, minimum(short, rounded_ratio(longest * low, high)))
    return maximum(1, short * height // low), maximum(1, short * width // low)


def minimum(a: int, b: int) -> int:
    """`min`, also of symbols, without a branch."""
    return cast(int, torch.sym_min(a, b))


def maximum(a: int, b: int) -> int:
    """`max`, also of symbols, without a branch."""
    return cast(int, torch.sym_max(a, b))
