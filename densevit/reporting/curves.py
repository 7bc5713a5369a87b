"""Curves of a run: the columns of its metrics.csv."""

import csv
import math
from collections.abc import Sequence
from pathlib import Path

Points = list[tuple[float, float]]

MAX_POINTS = 300


def read_curves(path: Path) -> dict[str, Points]:
    """Reads each column of a metrics.csv as points (step, value), in the order of columns.

    Skips empty and non-finite cells, and an incomplete last row of a killed run.
    """
    with path.open(newline="", encoding="utf-8-sig", errors="replace") as file:
        reader = csv.DictReader(line.replace("\0", "") for line in file if line.endswith("\n"))
        curves: dict[str, Points] = {name: [] for name in reader.fieldnames or () if name not in ("step", "epoch")}
        for row in reader:
            for name, points in curves.items():
                value = float(row[name] or "nan")
                if math.isfinite(value):
                    points.append((float(row["step"]), value))
    return {name: points for name, points in curves.items() if points}


def downsampled(points: Sequence[tuple[float, float]], most: int = MAX_POINTS) -> Points:
    """At most `most` points: means over groups of neighbours; the last point is unchanged."""
    size = math.ceil(len(points) / most)
    if size <= 1:
        return list(points)
    groups = [points[start : start + size] for start in range(0, len(points), size)]
    means = [(sum(x for x, _ in group) / len(group), sum(y for _, y in group) / len(group)) for group in groups]
    return [*means[:-1], points[-1]]
