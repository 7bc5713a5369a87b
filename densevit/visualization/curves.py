"""Plots of the columns of a run's metrics.csv as SVG."""

import csv
import math
from collections.abc import Sequence
from html import escape
from pathlib import Path

Points = list[tuple[float, float]]

WIDTH, HEIGHT = 320, 180
LEFT, RIGHT, TOP, BOTTOM = 58, 12, 26, 24  # margins for the title and the tick labels
MAX_POINTS = 300


def read_curves(path: Path) -> dict[str, Points]:
    """Reads each column of a metrics.csv as points (step, value), in the order of columns.

    Cells that are empty or not finite are skipped, and rows without a step, which a killed run may leave behind.
    """
    with path.open(newline="", encoding="utf-8", errors="replace") as file:
        reader = csv.DictReader(line.replace("\0", "") for line in file)
        curves: dict[str, Points] = {name: [] for name in reader.fieldnames or () if name not in ("step", "epoch")}
        for row in reader:
            step = _number(row.get("step"))
            for name, points in curves.items():
                value = _number(row.get(name))
                if step is not None and value is not None:
                    points.append((step, value))
    return {name: points for name, points in curves.items() if points}


def _number(cell: str | None) -> float | None:
    try:
        value = float(cell or "")
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def curve_svg(title: str, points: Sequence[tuple[float, float]]) -> str:
    """Plots one curve with axes, and the last value beside the title."""
    points = downsampled(points)
    xs, ys = [x for x, _ in points], [y for _, y in points]
    x_low = 0 if 0 <= min(xs) < max(xs) / 5 else min(xs)
    x_high = max(max(xs), x_low + 1e-9)
    x_ticks = ticks(x_low, x_high) if max(xs) > x_low else [x_low]
    y_ticks = ticks(min(ys), max(ys))
    y_low, y_high = min(y_ticks[0], min(ys)), max(y_ticks[-1], max(ys))

    def x_of(x: float) -> float:
        return LEFT + (x - x_low) / (x_high - x_low) * (WIDTH - LEFT - RIGHT)

    def y_of(y: float) -> float:
        return HEIGHT - BOTTOM - (y - y_low) / (y_high - y_low) * (HEIGHT - TOP - BOTTOM)

    parts = [f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}">']
    parts.append(f'<text x="4" y="15" class="title">{escape(title)}</text>')
    parts.append(f'<text x="{WIDTH - RIGHT}" y="15" class="last">{ys[-1]:.4g}</text>')
    for tick in y_ticks:
        y = y_of(tick)
        parts.append(f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}" class="grid"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{y + 3.5:.1f}" class="y">{_short(tick)}</text>')
    for tick in x_ticks:
        if x_low <= tick <= x_high:
            parts.append(f'<text x="{x_of(tick):.1f}" y="{HEIGHT - 8}" class="x">{_short(tick)}</text>')
    line = " ".join(f"{x_of(x):.1f},{y_of(y):.1f}" for x, y in points)
    parts.append(f'<polyline points="{line}" class="curve"/>')
    if len(points) < 40:
        parts.extend(f'<circle cx="{x_of(x):.1f}" cy="{y_of(y):.1f}" r="2" class="point"/>' for x, y in points)
    return "".join([*parts, "</svg>"])


def downsampled(points: Sequence[tuple[float, float]], most: int = MAX_POINTS) -> Points:
    """At most `most` points: means over groups of neighbours; the last point is unchanged."""
    size = math.ceil(len(points) / most)
    if size <= 1:
        return list(points)
    groups = [points[start : start + size] for start in range(0, len(points), size)]
    means = [(sum(x for x, _ in group) / len(group), sum(y for _, y in group) / len(group)) for group in groups]
    return [*means[:-1], points[-1]]


def ticks(low: float, high: float, about: int = 4) -> list[float]:
    """Round numbers that enclose low ... high, with a step of 1, 2 or 5 times a power of ten."""
    if high - low < 1e-12 * max(abs(low), abs(high), 1e-12):
        margin = 0.1 * abs(low)
        low, high = low - margin, high + margin or 1.0
    rough = (high - low) / about
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * (1 - 1e-9))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [n * step for n in range(first, last + 1)]


def _short(value: float) -> str:
    """A short tick label: 0.25, 1e-05, 20k."""
    if abs(value) >= 10_000:
        return f"{value / 1000:.4g}k"
    return f"{value:.4g}" if abs(value) >= 1e-12 else "0"
