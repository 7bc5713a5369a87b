"""Plots of curves as SVG, such as the columns of a run's metrics.csv."""

import csv
import math
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path

import numpy as np

from densevit.interfaces import Plot

Points = list[tuple[float, float]]

WIDTH, HEIGHT = 320, 180
LEFT, RIGHT, TOP, BOTTOM = 58, 12, 26, 24  # margins for the title and the tick labels
MAX_POINTS = 300
COLORS = 10  # of curves in one plot, in the style of pages
FILE_COLORS = (
    "#2463c9",
    "#d9541e",
    "#2a9d63",
    "#9b4dca",
    "#c28a00",
    "#c8367f",
    "#008ca8",
    "#7a5c3e",
    "#6b7785",
    "#6c8f1f",
)
FILE_STYLE = (
    "svg { background: #fff; } text { font: 11px system-ui, sans-serif; fill: #5c6570; } .title { fill: #1b1f24; } "
    ".y, .last { text-anchor: end; } .x { text-anchor: middle; } .grid { stroke: #dfe3e8; } "
    ".curve { fill: none; stroke: var(--c); stroke-width: 1.6; } .point { fill: var(--c); } "
)


def read_curves(path: Path) -> dict[str, Points]:
    """Reads each column of a metrics.csv as points (step, value), in the order of columns.

    Empty and non-finite cells are skipped, and so are rows without a step, which a killed run may leave.
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
    return plot_svg(title, {"": points}, note=f"{points[-1][1]:.4g}")


def plot_svg(
    title: str,
    curves: Mapping[str, Sequence[tuple[float, float]]],
    x: str = "",
    y: str = "",
    whole: bool = False,
    note: str = "",
    order: Sequence[str] | None = None,
) -> str:
    """Plots curves with at least one point each over common axes, in the colours of `legend`.

    x, y: labels of the axes. whole: axes from 0 to 1. note: text beside the title. order: the names in the legend, if
    it has others than these curves.
    """
    reduced = {name: downsampled(points) for name, points in curves.items()}
    xs, ys = ([point[n] for points in reduced.values() for point in points] for n in (0, 1))
    x_low: float = 0 if whole or 0 <= min(xs) < max(xs) / 5 else min(xs)
    x_high = 1.0 if whole else max(max(xs), x_low + 1e-9)
    x_ticks = ticks(x_low, x_high) if max(xs) > x_low else [x_low]
    y_ticks = ticks(0, 1) if whole else ticks(min(ys), max(ys))
    y_low, y_high = min(y_ticks[0], min(ys)), max(y_ticks[-1], max(ys))
    bottom = BOTTOM + (14 if x else 0)

    def x_of(value: float) -> float:
        return LEFT + (value - x_low) / (x_high - x_low) * (WIDTH - LEFT - RIGHT)

    def y_of(value: float) -> float:
        return HEIGHT - bottom - (value - y_low) / (y_high - y_low) * (HEIGHT - TOP - bottom)

    parts = [f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}">']
    parts.append(f'<text x="4" y="15" class="title">{escape(title)}</text>')
    if note or y:
        parts.append(f'<text x="{WIDTH - RIGHT}" y="15" class="{"last" if note else "y"}">{escape(note or y)}</text>')
    for tick in y_ticks:
        place = y_of(tick)
        parts.append(f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{place:.1f}" y2="{place:.1f}" class="grid"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{place + 3.5:.1f}" class="y">{short(tick)}</text>')
    for tick in x_ticks:
        if x_low <= tick <= x_high:
            parts.append(f'<text x="{x_of(tick):.1f}" y="{HEIGHT - bottom + 16}" class="x">{short(tick)}</text>')
    if x:
        parts.append(f'<text x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 4}" class="x">{escape(x)}</text>')
    for name, points in reduced.items():
        n = list(order or reduced).index(name)
        line = " ".join(f"{x_of(a):.1f},{y_of(b):.1f}" for a, b in points)
        label = f"<title>{escape(name)}</title>" if name else ""
        parts.append(f'<polyline points="{line}" class="curve c{n % COLORS}">{label}</polyline>')
        if len(points) < 40:
            parts.extend(
                f'<circle cx="{x_of(a):.1f}" cy="{y_of(b):.1f}" r="2" class="point c{n % COLORS}"/>' for a, b in points
            )
    return "".join([*parts, "</svg>"])


def svg_file(title: str, plot: Plot) -> str:
    """A plot with its legend as a separate SVG file, in the light style."""
    curves = {name: points for name, points in plot.curves.items() if points}
    height = HEIGHT + 16 * len(curves) + 6
    drawn = plot_svg(title, curves, plot.x, plot.y, plot.whole).removesuffix("</svg>")
    start, _, rest = drawn.partition(">")
    start = start.replace(f"0 0 {WIDTH} {HEIGHT}", f"0 0 {WIDTH} {height}")
    keys = [
        f'<rect x="{LEFT}" y="{HEIGHT + 16 * n + 4}" width="10" height="10" fill="{FILE_COLORS[n % COLORS]}"/>'
        f'<text x="{LEFT + 16}" y="{HEIGHT + 16 * n + 13}">{escape(name)}</text>'
        for n, name in enumerate(curves)
    ]
    colors = "".join(f".c{n} {{ --c: {color}; }} " for n, color in enumerate(FILE_COLORS))
    return (
        f'{start} xmlns="http://www.w3.org/2000/svg"><style>{FILE_STYLE}{colors}</style>{rest}{"".join(keys)}</svg>\n'
    )


def legend(names: Iterable[str]) -> str:
    """The names of curves with their colours, as HTML."""
    keys = [f'<span><i class="c{n % COLORS}"></i>{escape(name)}</span>' for n, name in enumerate(names)]
    return f'<p class="legend">{"".join(keys)}</p>'


def downsampled(points: Sequence[tuple[float, float]], most: int = MAX_POINTS) -> Points:
    """At most `most` points: means over groups of neighbours; the last point is unchanged."""
    size = math.ceil(len(points) / most)
    if size <= 1:
        return list(points)
    groups = [points[start : start + size] for start in range(0, len(points), size)]
    means = [(sum(x for x, _ in group) / len(group), sum(y for _, y in group) / len(group)) for group in groups]
    return [*means[:-1], points[-1]]


def ticks(low: float, high: float, about: int = 4) -> list[float]:
    """Round numbers that cover low ... high, with a step of 1, 2 or 5 times a power of ten."""
    if high - low < 1e-12 * max(abs(low), abs(high), 1e-12):
        margin = 0.1 * abs(low)
        low, high = low - margin, high + margin or 1.0
    rough = (high - low) / about
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * (1 - 1e-9))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [n * step for n in range(first, last + 1)]


def short(value: float) -> str:
    """A short tick label: 0.25, 1e-05, 20k."""
    if abs(value) >= 10_000:
        return f"{value / 1000:.4g}k"
    return f"{value:.4g}" if abs(value) >= 1e-12 else "0"


def histogram_svg(title: str, values: Sequence[float] | np.ndarray, bins: int = 40) -> str:
    """Plots how often values occur in equal intervals of their range, with the median beside the title.

    Values beyond the 99.5th percentile are counted in the last interval.
    """
    numbers = np.asarray(values, np.float64)
    low, high = float(numbers.min()), float(np.quantile(numbers, 0.995))
    high = high if high > low else float(numbers.max())
    x_ticks = ticks(low, high)
    low, high = min(x_ticks[0], low), max(x_ticks[-1], high, low + 1e-9)
    counts, _ = np.histogram(np.minimum(numbers, high), bins, (low, high))
    y_ticks = ticks(0, float(counts.max()))
    top = max(y_ticks[-1], 1e-9)
    width, floor = (WIDTH - LEFT - RIGHT) / bins, HEIGHT - BOTTOM
    parts = [f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}">']
    parts.append(f'<text x="4" y="15" class="title">{escape(title)}</text>')
    parts.append(f'<text x="{WIDTH - RIGHT}" y="15" class="last">{np.median(numbers):.4g}</text>')
    for tick in y_ticks:
        y = floor - tick / top * (floor - TOP)
        parts.append(f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}" class="grid"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{y + 3.5:.1f}" class="y">{short(tick)}</text>')
    for tick in x_ticks:
        x = LEFT + (tick - low) / (high - low) * (WIDTH - LEFT - RIGHT)
        parts.append(f'<text x="{x:.1f}" y="{HEIGHT - 8}" class="x">{short(tick)}</text>')
    for place, count in enumerate(counts.tolist()):
        height = count / top * (floor - TOP)
        if count:
            x, y = LEFT + place * width, floor - height
            size = f'width="{width - 0.5:.1f}" height="{height:.1f}"'
            parts.append(f'<rect x="{x:.1f}" y="{y:.1f}" {size} class="fill"/>')
    return "".join([*parts, "</svg>"])
