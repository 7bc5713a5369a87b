"""Tables (Markdown) and plot (SVG) of the results of `convergence.py`."""

import statistics
from collections.abc import Callable, Mapping, Sequence
from html import escape
from typing import TypedDict

from densevit.visualization.curves import ticks

WIDTH, HEIGHT = 760, 420
LEFT, RIGHT, TOP, BOTTOM = 60, 20, 20, 46
COLORS = ("#555555", "#D55E00", "#0072B2", "#009E73", "#CC3399")  # Okabe-Ito palette, safe for colour-blind readers
AP, AP50 = 1, 2  # columns of a run's points


class RunResult(TypedDict):
    """A finished run. points: (images, AP, AP50) of each validation."""

    contestant: str
    seed: int
    minutes: float
    points: list[list[float]]


class Results(TypedDict):
    """The content of results.json. rates: images per yardstick second; images_per_second: as measured."""

    rates: dict[str, float]
    images_per_second: dict[str, float]
    runs: list[RunResult]


Points = list[tuple[float, float]]


def runs_of(results: Results, name: str, minutes: float) -> list[RunResult]:
    """The runs of a contestant with one budget, by seed."""
    found = [run for run in results["runs"] if run["contestant"] == name and run["minutes"] == minutes]
    return sorted(found, key=lambda run: run["seed"])


def budgets(results: Results) -> list[float]:
    return sorted({run["minutes"] for run in results["runs"]})


def curve(run: RunResult, rate: float, column: int = AP) -> Points:
    """(minutes, value) of each validation. rate: images per yardstick second."""
    return [(point[0] / rate / 60, point[column]) for point in run["points"]]


def mean_curve(curves: Sequence[Points]) -> Points:
    """The mean of curves with equal times."""
    return [(points[0][0], statistics.mean(value for _, value in points)) for points in zip(*curves, strict=True)]


def first_reaching(points: Points, level: float) -> float | None:
    """The time at which a curve reaches a level, linear between its points and from (0, 0); None if it does not."""
    earlier, value = 0.0, 0.0
    for time, later in points:
        if later >= level:
            return earlier if later == value else earlier + (time - earlier) * (level - value) / (later - value)
        earlier, value = time, later
    return None


def tables(results: Results, labels: Mapping[str, str], yardstick: str, challenger: str) -> str:
    """AP and AP50 at the end of annealed runs, mean and each seed; the time until the challenger reaches the AP of the
    yardstick; and the curves of the longest runs."""
    times = budgets(results)
    head = [*(f"AP, {time:g} min" for time in times), *(f"AP50, {time:g} min" for time in times)]
    lines = [row(["", "images/s", *head]), row(["---"] * (len(head) + 2))]
    for name in _present(results, labels):
        cells = [_final(runs_of(results, name, time), column) for column in (AP, AP50) for time in times]
        lines.append(row([labels[name], f"{results['rates'][name]:.1f}", *cells]))
    reached = _time_to_reach(results, labels, yardstick, challenger)
    return "\n".join([*lines, "", *reached, *([""] if reached else []), *_curves(results, labels)]) + "\n"


def _curves(results: Results, labels: Mapping[str, str]) -> list[str]:
    """AP against minutes, means over the seeds, of the longest runs."""
    longest = budgets(results)[-1]
    curves = {}
    for name in _present(results, labels):
        runs = [curve(run, results["rates"][name]) for run in runs_of(results, name, longest)]
        if runs:
            curves[labels[name]] = {round(minutes, 2): f"{value:.3f}" for minutes, value in mean_curve(runs)}
    times = sorted({time for points in curves.values() for time in points})
    lines = [row(["AP after minutes", *(f"{time:g}" for time in times)]), row(["---"] * (len(times) + 1))]
    return [*lines, *(row([label, *(points.get(time, "") for time in times)]) for label, points in curves.items())]


def row(cells: Sequence[str]) -> str:
    """A row of a Markdown table."""
    return f"| {' | '.join(cells)} |"


def _present(results: Results, labels: Mapping[str, str]) -> list[str]:
    finished = {run["contestant"] for run in results["runs"]}
    return [name for name in labels if name in finished]


def _final(runs: Sequence[RunResult], column: int) -> str:
    values = [run["points"][-1][column] for run in runs]
    if not values:
        return ""
    return f"{statistics.mean(values):.3f} ({', '.join(f'{value:.3f}' for value in values)})"


def _time_to_reach(results: Results, labels: Mapping[str, str], yardstick: str, challenger: str) -> list[str]:
    longest = budgets(results)[-1]
    reference, runs = runs_of(results, yardstick, longest), runs_of(results, challenger, longest)
    if not reference or not runs:
        return []
    level = statistics.mean(run["points"][-1][AP] for run in reference)
    found = first_reaching(mean_curve([curve(run, results["rates"][challenger]) for run in runs]), level)
    within = f"is not reached in {longest:g} min" if found is None else f"is reached after {found:.1f} min"
    text = f"AP {level:.3f} of {labels[yardstick]} after {longest:g} min {within} of the {longest:g} by "
    text += f"{labels[challenger]} (mean curve)"
    for time in budgets(results)[:-1]:
        shorter = runs_of(results, challenger, time)
        if shorter and statistics.mean(run["points"][-1][AP] for run in shorter) >= level:
            return [f"{text}, and by its runs annealed at {time:g} min."]
    return [f"{text}."]


def plot(results: Results, labels: Mapping[str, str]) -> str:
    """AP against minutes: the longest runs as lines, thin for each seed and thick for the mean.

    A circle is the mean of the runs annealed at a shorter budget.
    """
    times = budgets(results)
    values = [point[AP] for run in results["runs"] for point in run["points"]]
    x_ticks, y_ticks = ticks(0, times[-1], 5), ticks(0, max(values), 6)
    x_high, y_high = max(x_ticks[-1], times[-1]), y_ticks[-1]

    def x_of(x: float) -> float:
        return LEFT + x / x_high * (WIDTH - LEFT - RIGHT)

    def y_of(y: float) -> float:
        return HEIGHT - BOTTOM - y / y_high * (HEIGHT - TOP - BOTTOM)

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
        'font-family="sans-serif" font-size="13">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
    ]
    for tick in y_ticks:
        y = y_of(tick)
        parts.append(f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}" stroke="#dddddd"/>')
        parts.append(f'<text x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{tick:.3g}</text>')
    for tick in x_ticks:
        parts.append(f'<text x="{x_of(tick):.1f}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle">{tick:.3g}</text>')
    middle = (HEIGHT + TOP - BOTTOM) / 2
    parts.append(f'<text x="{(WIDTH + LEFT) / 2}" y="{HEIGHT - 8}" text-anchor="middle">training time, minutes</text>')
    parts.append(f'<text transform="translate(16 {middle}) rotate(-90)" text-anchor="middle">box AP, 500 scenes</text>')
    for number, name in enumerate(_present(results, labels)):
        color = COLORS[list(labels).index(name) % len(COLORS)]
        parts.extend(_lines(results, name, color, x_of, y_of))
        y = TOP + 16 + 19 * number
        parts.append(f'<line x1="{LEFT + 12}" x2="{LEFT + 36}" y1="{y}" y2="{y}" stroke="{color}" stroke-width="3"/>')
        parts.append(f'<text x="{LEFT + 42}" y="{y + 4}">{escape(labels[name])}</text>')
    return "\n".join([*parts, "</svg>", ""])


def _lines(
    results: Results, name: str, color: str, x_of: Callable[[float], float], y_of: Callable[[float], float]
) -> list[str]:
    rate, times = results["rates"][name], budgets(results)
    parts = []
    curves = [curve(run, rate) for run in runs_of(results, name, times[-1])]
    if curves:
        thin = [(points, 1) for points in curves] if len(curves) > 1 else []
        for points, width in [*thin, (mean_curve(curves), 3)]:
            line = " ".join(f"{x_of(x):.1f},{y_of(y):.1f}" for x, y in points)
            parts.append(f'<polyline points="{line}" fill="none" stroke="{color}" stroke-width="{width}"/>')
    for time in times[:-1]:
        shorter = [curve(run, rate) for run in runs_of(results, name, time)]
        if shorter:
            x, y = mean_curve(shorter)[-1]
            style = f'r="4.5" fill="white" stroke="{color}" stroke-width="2"'
            parts.append(f'<circle cx="{x_of(x):.1f}" cy="{y_of(y):.1f}" {style}/>')
    return parts
