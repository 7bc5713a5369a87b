"""Depth errors by distance: sums over the pixels of each interval of true depth."""

import math
from collections.abc import Iterable, Iterator

import numpy as np

from densevit.interfaces import Plot, Table

EDGES = np.array([step * 10.0**power for power in range(-3, 4) for step in (1, 1.5, 2, 3, 5, 7)] + [1e4])
"""Bounds of the intervals, in metres: about equally wide in log depth, from 1 mm to 10 km."""


def sums_by_distance(p: np.ndarray, g: np.ndarray) -> np.ndarray:
    """Sums over an image's pixels with g in each interval: 1, |p - g| / g, (p - g)^2 in m^2 and p - g in m.

    p, g: (N,), predictions and ground truth in metres. g beyond `EDGES` counts in the first or last interval.
    Returns (4, B) for B intervals.
    """
    bins = np.clip(np.searchsorted(EDGES, g, side="right") - 1, 0, len(EDGES) - 2)
    difference = p - g
    values = (None, np.abs(difference) / g, difference**2, difference)
    return np.stack([np.bincount(bins, value, minlength=len(EDGES) - 1) for value in values]).astype(np.float64)


def distance_table(images: Iterable[np.ndarray]) -> Table:
    """One row per interval with pixels: AbsRel, RMSE and the bias, the mean of p - g."""
    rows: Table = [[f"{EDGES[n]:g} to {EDGES[n + 1]:g}", count, *errors] for n, count, errors in _by_interval(images)]
    return [["distance", "pixels", "AbsRel", "RMSE", "bias"], *rows]


def distance_plots(images: Iterable[np.ndarray]) -> dict[str, Plot]:
    """AbsRel and RMSE at the middle of each interval."""
    intervals = list(_by_interval(images))
    points = {
        name: [(float(EDGES[n] + EDGES[n + 1]) / 2, errors[column]) for n, _, errors in intervals]
        for column, name in enumerate(("AbsRel", "RMSE"))
    }
    return {f"{name} by distance": Plot("distance", name, {name: x}) for name, x in points.items() if x}


def _by_interval(images: Iterable[np.ndarray]) -> Iterator[tuple[int, int, list[float]]]:
    """Yields the index, the number of pixels, and AbsRel, RMSE and bias of each interval with pixels."""
    stacked = list(images)
    for n in range(len(EDGES) - 1) if stacked else ():
        pixels, relative, square, bias = (math.fsum(image[row, n] for image in stacked) for row in range(4))
        if pixels:
            yield n, int(pixels), [relative / pixels, math.sqrt(square / pixels), bias / pixels]
