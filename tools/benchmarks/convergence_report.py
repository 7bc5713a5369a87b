"""Tables (Markdown) and plot (SVG) of the results of `convergence.py`."""

import io
import statistics
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, TypedDict

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Okabe-Ito palette, safe for colour-blind readers, and a brown.
COLORS = ("#555555", "#D55E00", "#0072B2", "#009E73", "#CC3399", "#56B4E9", "#E69F00", "#000000", "#8C564B")
AP, AP50 = 1, 2  # columns of a run's points


class RunResult(TypedDict):
    """A finished run. points: (images, AP, AP50) of each validation."""

    contestant: str
    seed: int
    minutes: float
    points: list[list[float]]


class Results(TypedDict):
    """The content of results.json. rates: images per yardstick second; images_per_second: the measured throughput."""

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
    text = f"AP {level:.3f}, that of {labels[yardstick]} after {longest:g} min, {within} of the {longest:g} by "
    text += f"{labels[challenger]} (mean curve)"
    for time in budgets(results)[:-1]:
        shorter = runs_of(results, challenger, time)
        if shorter and statistics.mean(run["points"][-1][AP] for run in shorter) >= level:
            return [f"{text}, and by its runs annealed at {time:g} min."]
    return [f"{text}."]


def plot(results: Results, labels: Mapping[str, str]) -> str:
    """AP against minutes: each contestant's longest runs as lines, thin for each seed and thick for the mean.

    A circle is the mean of its runs annealed at a shorter budget.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "convergence", "font.family": "sans-serif"}):
        figure = Figure((9.2, 4.2), layout="constrained")
        axes = figure.add_subplot(xlabel="training time, minutes", ylabel="box AP, 500 scenes")
        for name in _present(results, labels):
            _lines(axes, results, name, labels[name], COLORS[list(labels).index(name) % len(COLORS)])
        axes.set(xlim=(0, None), ylim=(0, None))
        axes.grid(axis="y", color="#dddddd")
        axes.spines[["top", "right"]].set_visible(False)
        figure.legend(loc="outside right upper", frameon=False)
        text = io.StringIO()
        figure.savefig(text, format="svg", facecolor="white", metadata={"Date": None})
    return text.getvalue()


def _lines(axes: "Axes", results: Results, name: str, label: str, color: str) -> None:
    rate = results["rates"][name]
    times = [time for time in budgets(results) if runs_of(results, name, time)]
    curves = [curve(run, rate) for run in runs_of(results, name, times[-1])]
    for points in curves if len(curves) > 1 else ():
        axes.plot(*zip(*points, strict=True), color=color, linewidth=0.8)
    axes.plot(*zip(*mean_curve(curves), strict=True), color=color, linewidth=2.5, label=label)
    for time in times[:-1]:
        x, y = mean_curve([curve(run, rate) for run in runs_of(results, name, time)])[-1]
        axes.plot([x], [y], "o", color=color, markerfacecolor="white", markeredgewidth=1.5, clip_on=False)
