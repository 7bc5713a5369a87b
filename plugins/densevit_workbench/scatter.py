"""Scatter plots with labelled points as a self-contained SVG, light and dark."""

import math
from collections.abc import Sequence
from html import escape
from typing import NamedTuple

from densevit.visualization.curves import short, ticks

WIDTH, HEIGHT = 420, 280
LEFT, RIGHT, TOP, BOTTOM = 58, 16, 30, 44
LINE = 12  # height of a label
CHARACTER = 6.2  # width of a label's letter

STYLE = """
text { font: 11px system-ui, sans-serif; fill: #5c6570; }
.title { font-size: 12px; fill: #1b1f24; }
.grid { stroke: #d8dce2; }
.point { fill: #2463c9; }
.y { text-anchor: end; }
.x { text-anchor: middle; }
@media (prefers-color-scheme: dark) {
  text { fill: #9aa3b0; } .title { fill: #e6e8ec; } .grid { stroke: #3a404a; } .point { fill: #7fb0ff; }
}
"""


class Panel(NamedTuple):
    """One plot. points: (x, y, label); x is positive and its axis logarithmic."""

    title: str
    x_title: str
    points: Sequence[tuple[float, float, str]]


def scatter_svg(panels: Sequence[Panel], columns: int = 3) -> str:
    """The panels in rows of `columns`, as one SVG file."""
    columns = min(columns, len(panels))
    rows = math.ceil(len(panels) / columns)
    size = f'width="{columns * WIDTH}" height="{rows * HEIGHT}" viewBox="0 0 {columns * WIDTH} {rows * HEIGHT}"'
    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" {size}><style>{STYLE}</style>']
    for number, panel in enumerate(panels):
        row, column = divmod(number, columns)
        parts.append(f'<g transform="translate({column * WIDTH} {row * HEIGHT})">{_panel(panel)}</g>')
    return "".join([*parts, "</svg>\n"])


def _panel(panel: Panel) -> str:
    xs, ys = [math.log10(x) for x, _, _ in panel.points], [y for _, y, _ in panel.points]
    margin = 0.08 * (max(xs) - min(xs)) or 0.1
    x_low, x_high = min(xs) - margin, max(xs) + margin
    y_ticks = ticks(min(ys), max(ys))
    y_low, y_high = y_ticks[0], y_ticks[-1]

    def x_of(x: float) -> float:
        return LEFT + (x - x_low) / (x_high - x_low) * (WIDTH - LEFT - RIGHT)

    def y_of(y: float) -> float:
        return HEIGHT - BOTTOM - (y - y_low) / (y_high - y_low) * (HEIGHT - TOP - BOTTOM)

    parts = [f'<text x="4" y="16" class="title">{escape(panel.title)}</text>']
    for tick in y_ticks:
        y = y_of(tick)
        parts.append(f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}" class="grid"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{y + 3.5:.1f}" class="y">{short(tick)}</text>')
    for value in log_ticks(10**x_low, 10**x_high):
        x = x_of(math.log10(value))
        parts.append(f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{HEIGHT - BOTTOM}" class="grid"/>')
        parts.append(f'<text x="{x:.1f}" y="{HEIGHT - BOTTOM + 16}" class="x">{short(value)}</text>')
    middle = (LEFT + WIDTH - RIGHT) / 2
    parts.append(f'<text x="{middle:.1f}" y="{HEIGHT - 8}" class="x">{escape(panel.x_title)}</text>')
    taken: list[tuple[float, float, float, float]] = [
        (x_of(x) - 4, y_of(y) - 4, x_of(x) + 4, y_of(y) + 4) for x, y in zip(xs, ys, strict=True)
    ]
    for x, y, (_, _, label) in zip(xs, ys, panel.points, strict=True):
        parts.append(f'<circle cx="{x_of(x):.1f}" cy="{y_of(y):.1f}" r="4" class="point"/>')
        left, baseline = _free_place(x_of(x), y_of(y), CHARACTER * len(label), taken)
        parts.append(f'<text x="{left:.1f}" y="{baseline:.1f}">{escape(label)}</text>')
    return "".join(parts)


def _free_place(
    x: float, y: float, width: float, taken: list[tuple[float, float, float, float]]
) -> tuple[float, float]:
    """Left end and baseline of a label near a point that covers no point and no other label. Adds it to `taken`."""
    places = [(x + 7, y + 4), (x - 7 - width, y + 4), (x - width / 2, y - 8), (x - width / 2, y + 16)]
    shifts = (-8, 16, -20, 28, -32, 40)
    places += [(left, y + shift) for shift in shifts for left in (x + 7, x - 7 - width)]
    best, least = places[0], math.inf
    for left, baseline in places:
        box = (left, baseline - LINE + 2, left + width, baseline + 2)
        outside = box[0] < LEFT or box[2] > WIDTH or box[1] < TOP - LINE or box[3] > HEIGHT - BOTTOM + LINE
        covered = sum(_overlap(box, other) for other in taken) + 1e6 * outside
        if covered < least:
            best, least = (left, baseline), covered
    taken.append((best[0], best[1] - LINE + 2, best[0] + width, best[1] + 2))
    return best


def _overlap(a: tuple[float, float, float, float], b: tuple[float, float, float, float]) -> float:
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    return max(0.0, width) * max(0.0, height)


def log_ticks(low: float, high: float) -> list[float]:
    """1, 2 and 5 times powers of ten between low and high; at least two numbers, round if possible."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    found = [factor * 10.0**power for power in powers for factor in (1, 2, 5)]
    found = [value for value in found if low <= value <= high]
    return found if len(found) > 1 else [value for value in ticks(low, high) if low <= value <= high]


def head_distances_svg(title: str, values: Sequence[Sequence[float]]) -> str:
    """Plots one column of points per layer, from left to right, with CSS classes of `html_page`. values: by layer."""
    high = ticks(0, max(max(own) for own in values))
    parts = [f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}">']
    parts.append(f'<text x="4" y="16" class="title">{escape(title)}</text>')

    def y_of(y: float) -> float:
        return HEIGHT - BOTTOM - y / high[-1] * (HEIGHT - TOP - BOTTOM)

    for tick in high:
        y = y_of(tick)
        parts.append(f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}" class="grid"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{y + 3.5:.1f}" class="y">{short(tick)}</text>')
    step = (WIDTH - LEFT - RIGHT) / len(values)
    for number, own in enumerate(values):
        x = LEFT + (number + 0.5) * step
        if number % math.ceil(len(values) / 12) == 0:
            parts.append(f'<text x="{x:.1f}" y="{HEIGHT - BOTTOM + 16}" class="x">{number + 1}</text>')
        parts.extend(f'<circle cx="{x:.1f}" cy="{y_of(value):.1f}" r="3" class="point"/>' for value in own)
    parts.append(f'<text x="{(LEFT + WIDTH - RIGHT) / 2:.1f}" y="{HEIGHT - 8}" class="x">layer</text>')
    return "".join([*parts, "</svg>"])
