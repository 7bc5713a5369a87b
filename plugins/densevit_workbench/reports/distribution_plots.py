"""Plots of distributions as SVG: of targets and images, by `densevit doctor`, and of attention, by `inspect`."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from densevit.reporting.plots import BOTTOM, HEIGHT, WIDTH, color, label_axes, page_svg

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_BINS = 40
_ROUNDING = 1e-9  # relative differences below it are not shown


def histogram(values: Sequence[float] | np.ndarray) -> str:
    """Plots a histogram of the finite values in equal intervals.

    Values beyond the 99.5th percentile count in the last interval. Values that differ by rounding only are in one.
    """
    numbers = np.asarray(values, np.float64)
    numbers = numbers[np.isfinite(numbers)]
    low, high = (float(np.quantile(numbers, q)) for q in (0, 0.995)) if numbers.size else (0.0, 1.0)
    high = high if high > low or not numbers.size else float(numbers.max())
    if high - low <= _ROUNDING * max(abs(low), abs(high), _ROUNDING):
        numbers, margin = np.full_like(numbers, low), max(0.5, abs(low) / 2)
        low, high = low - margin, low + margin

    def draw(axes: "Axes") -> None:
        axes.hist(np.minimum(numbers, high), _BINS, range=(low, high), color=color(0), rwidth=0.9)

    return page_svg(draw, WIDTH, HEIGHT)


def point_columns(values: Sequence[Sequence[float]], x: str) -> str:
    """Plots one column of points for each entry, numbered from 1."""
    from matplotlib.ticker import MaxNLocator

    def draw(axes: "Axes") -> None:
        for number, column in enumerate(values, start=1):
            axes.plot([number] * len(column), column, "o", color=color(0), markersize=4)
        axes.set_ylim(bottom=0)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        label_axes(axes, x, "")

    return page_svg(draw, WIDTH, HEIGHT + 14, bottom=BOTTOM + 14)
