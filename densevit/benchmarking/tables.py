"""The tables of a benchmark as Markdown, and its plot of score against cost."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from densevit.benchmarking.results import CaseResult
from densevit.evaluation.metrics_file import by_head
from densevit.visualization.scatter import Panel, scatter_svg

SHOWN_METRICS = 3  # columns of each head
MODULE_LEVELS = 2

Results = Mapping[str, CaseResult]


def markdown(results: Results, facts: Mapping[str, Any], modules: bool = True) -> str:
    """All tables: scores in a grid, costs with scores, speed, modules if asked for, and what failed."""
    about = ", ".join(f"{name} {value}" for name, value in facts.items())
    parts = ["# Benchmark", about]
    if any(case.head and case.metrics for case in results.values()):
        parts += ["## Scores", _grid(results)]
    parts += ["## Cost", _costs(results)]
    if any(case.timings for case in results.values()):
        parts += ["## Speed", SPEED, _speed(results)]
    if modules:
        parts += ["## Modules", _modules(results)]
    failed = [f"- {name}, {step}: {text}" for name, case in results.items() for step, text in case.errors.items()]
    if failed:
        parts += ["## Failed", "\n".join(failed)]
    return "\n\n".join(parts) + "\n"


SPEED = (
    "From uint8 images on the device to predictions, with random weights; images/s at the median. Memory: what a batch "
    "adds at its peak."
)


def _grid(results: Results) -> str:
    """A row for each backbone, with the metrics of each head in columns."""
    columns: dict[tuple[str, str], None] = {}
    for case in results.values():
        for metric in _shown(case):
            columns[case.head, metric] = None
    rows = []
    for backbone in dict.fromkeys(case.backbone for case in results.values()):
        own = {case.head: case for case in results.values() if case.backbone == backbone}
        cells = []
        for head, metric in columns:
            metrics = by_head(own[head].metrics).get(head, {}) if head in own else {}
            cells.append(_score(metrics.get(metric)))
        rates = ", ".join(f"{case.training['lr']:g}" for case in own.values() if case.training.get("lr"))
        rows.append([backbone, *cells, rates])
    return _table(["backbone", *(f"{head} {metric}" for head, metric in columns), "learning rates"], rows)


def _shown(case: CaseResult) -> list[str]:
    """The main metric of a case's head and those that stand first besides it."""
    own = [*by_head(case.metrics).get(case.head, {})]
    main = [name.partition("/")[2] for name in case.training.get("main", [])]
    return list(dict.fromkeys([*(name for name in main if name in own), *own]))[:SHOWN_METRICS]


def _costs(results: Results) -> str:
    rows = []
    for name, case in results.items():
        scores = ", ".join(f"{metric} {_score(value)}" for metric, value in _main_scores(case).items())
        for size, cost in case.cost.get("by_size", {}).items():
            rows.append(
                [
                    name,
                    size,
                    _millions(case.cost["parameters"]),
                    f"{cost['multiply_adds'] / 1e9:.3g}",
                    _millions(cost["activations"]),
                    scores,
                ]
            )
    return _table(["model", "size", "parameters, M", "multiply-adds, G", "activations, M", "scores"], rows)


def _main_scores(case: CaseResult) -> dict[str, float]:
    """The main metrics; all if it is not known which they are."""
    main = case.training.get("main")
    return {name: value for name, value in case.metrics.items() if not main or name in main}


def _speed(results: Results) -> str:
    rows = []
    for name, case in results.items():
        for key, timing in case.timings.items():
            device, mode, batch, _, size = key.split()
            memory = timing["memory_mb"]
            rows.append(
                [
                    name,
                    f"{device}, {mode}",
                    batch,
                    size,
                    f"{timing['p50_ms']:.1f}",
                    f"{timing['p95_ms']:.1f}",
                    f"{timing['images_per_second']:.1f}",
                    "" if memory is None else f"{memory:.0f}",
                ]
            )
    return _table(["model", "mode", "batch", "size", "p50, ms", "p95, ms", "images/s", "memory, MB"], rows)


def _modules(results: Results) -> str:
    rows = []
    for name, case in results.items():
        for size, cost in case.cost.get("by_size", {}).items():
            for part in cost["modules"]:
                if part["name"].count(".") < MODULE_LEVELS and part["name"] not in ("heads", "necks"):
                    work = f"{part['multiply_adds'] / 1e9:.3g}"
                    rows.append(
                        [name, size, part["name"], _millions(part["parameters"]), work, _millions(part["activations"])]
                    )
    return _table(["model", "size", "module", "parameters, M", "multiply-adds, G", "activations, M"], rows)


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return "\n".join("| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |" for line in lines)


def _millions(count: float) -> str:
    return f"{count / 1e6:.2f}"


def _score(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def plot(results: Results) -> str | None:
    """A panel for each main metric: score against multiply-adds of an image. None without scores."""
    panels: dict[str, list[tuple[float, float, str]]] = {}
    for name, case in results.items():
        works = [cost["multiply_adds"] for cost in case.cost.get("by_size", {}).values()]
        for metric, value in _main_scores(case).items() if works else ():
            panels.setdefault(metric, []).append((works[0] / 1e9, value, case.backbone or name))
    if not panels:
        return None
    return scatter_svg([Panel(metric, "multiply-adds, G", points) for metric, points in panels.items()])
