"""The tables of a benchmark."""

from collections.abc import Mapping, Sequence
from typing import Any

from densevit.errors import counted
from densevit.evaluation.metric_order import sign
from densevit.evaluation.metrics_file import by_head
from densevit.grouping import grouped
from densevit.reporting.html_page import Heading, KeyValues, PageElement, Table, Text
from densevit_workbench.benchmarking.benchmark_results import CaseResult
from densevit_workbench.benchmarking.digest import comparable, differing
from densevit_workbench.reports import text_tables
from densevit_workbench.reports.evaluated_data import different_keys

SHOWN = {  # columns next to a head's main metric; for any other main metric, the first SHOWN_METRICS metrics
    "AP": ("AP50",),
    "mask_AP": ("mask_AP50", "AP"),
    "mIoU": (),
    "PQ": ("SQ", "RQ"),
    "AbsRel": ("delta1", "RMSE"),
}
SHOWN_METRICS = 3

Results = Mapping[str, CaseResult]


def parts(results: Results, facts: Mapping[str, Any]) -> list[PageElement]:
    """The origin of the results, then tables of scores, costs with main scores, speed and failures."""
    contents: list[PageElement] = [KeyValues(_origin(results, facts))]
    if any(case.metrics for case in results.values()):
        contents += [Heading("Scores"), Text(SCORES), *_data_note(results), *_scores(results)]
    contents += [Heading("Cost"), _costs(results)]
    if any(case.timings for case in results.values()):
        contents += [Heading("Speed"), Text(SPEED), _speed(results)]
    failed = [(f"{name}, {step}", text) for name, case in results.items() for step, text in case.errors.items()]
    return [*contents, Heading("Failed"), KeyValues(failed)] if failed else contents


def markdown(results: Results, facts: Mapping[str, Any]) -> str:
    """The parts as Markdown."""
    return "\n\n".join(["# Benchmark", *map(_markdown, parts(results, facts))]) + "\n"


def _markdown(part: PageElement) -> str:
    if isinstance(part, Heading):
        return f"## {part.text}"
    if isinstance(part, KeyValues):
        return "\n".join(f"- {name}: {text}" for name, text in part.values)
    if isinstance(part, Table):
        return text_tables.markdown(part)
    assert isinstance(part, Text)
    return part.text


SCORES = (
    "Scores come from the best validation; ↑ higher is better, ↓ lower is better. Over several seeds: mean ± "
    "standard deviation."
)
SPEED = (
    "Times are from uint8 images on the device to predictions, with random weights; images/s at the median. Memory is "
    "the weights plus the peak that a batch adds, on GPUs."
)


def _origin(results: Results, facts: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The command, software, device and settings that produced the tables."""
    trained = {name: case.training for name, case in results.items() if case.training.get("runs")}
    settings = {name: case.setting for name, case in results.items()}
    threads = f", {counted(facts['threads'], 'thread')}" if "cpu" in str(facts["device"]) else ""
    lines = {
        "command": f"`{facts['command']}`" if facts.get("command") else "",
        "software": f"densevit {facts['densevit']}, torch {facts['torch']}",
        "device of cost and speed": f"{facts['device']}{threads}",
        "data": _shared({n: _data(settings[n], trained.get(n)) for n in trained or settings if settings[n]}),
        "budget": _shared(
            {
                n: f"{training['images']:,} images seen, {settings[n]['batch_size']} per batch"
                for n, training in trained.items()
            }
        ),
        "seed": _shared(
            {name: ", ".join(map(str, training["seeds"])) for name, training in trained.items() if "seeds" in training}
        ),
        "learning rate": _rates(results, trained),
        "device of trainings": _shared(
            {n: f"{training['device']}, {training['precision']}" for n, training in trained.items()}
        ),
    }
    return [(name, text) for name, text in lines.items() if text]


def _data(setting: Mapping[str, Any], training: Mapping[str, Any] | None) -> str:
    """A data set in words, such as "scenes, 128x128, 16,000 training and 500 validation images"."""
    size = setting["image_size"]
    parts = [setting["data"], "the default image size" if size is None else f"{size[0]}x{size[1]}"]
    if training is not None:
        parts.append(f"{training['train_images']:,} training and {training['val_images']:,} validation images")
    return ", ".join(parts)


def _rates(results: Results, trained: Mapping[str, Mapping[str, Any]]) -> str:
    """The learning rates by head, or by model."""
    by_head: dict[str, dict[str, str]] = {}
    for name, training in trained.items():
        case = results[name]
        by_head.setdefault(case.head, {})[case.backbone or name] = f"{training['lr']:g}"
    return "; ".join(f"{head} {_shared(rates, ', ')}".strip() for head, rates in by_head.items())


def _shared(values: Mapping[str, str], separator: str = "; ") -> str:
    """The value that all names share; if values differ, each value with its names."""
    names = grouped((value, name) for name, value in values.items())
    if len(names) < 2:
        return "".join(names)
    return separator.join(f"{value} ({', '.join(group)})" for value, group in names.items())


def _scores(results: Results) -> list[PageElement]:
    """A table per group of models whose scores are comparable, with what differs from the first."""
    parts: dict[str, dict[str, str]] = {}
    for name, case in results.items():
        digest = case.training.get("digest", {}) if case.backbone else {}
        parts.setdefault(case.backbone or name, {}).update({f"{case.head} {part}": x for part, x in digest.items()})
    first, *further = comparable(parts)
    tables: list[PageElement] = [_score_table(results, first)]
    for names in further:
        differences = differing(parts[names[0]], parts[first[0]])
        tables += [Text(f"Not comparable with the first table: {differences}."), _score_table(results, names)]
    return tables


def _score_table(results: Results, names: Sequence[str]) -> Table:
    """One row per backbone or model among these, with the metrics of each head in columns."""
    rows_of: dict[str, list[CaseResult]] = {}
    columns: dict[str, str] = {}
    for name, case in results.items():
        if (case.backbone or name) not in names:
            continue
        rows_of.setdefault(case.backbone or name, []).append(case)
        columns |= {metric: f"{metric.replace('/', ' ', 1)}{_direction(case, metric)}" for metric in _shown(case)}
    rows = []
    for name, cases in rows_of.items():
        scores = {metric: _score(case, metric) for case in cases for metric in case.metrics}
        weights = _shared({case.head: _weights(case) for case in cases if case.setting})
        rows.append([name, weights, *(scores.get(metric, "") for metric in columns)])
    first = "backbone" if any(case.backbone for case in results.values()) else "model"
    return text_tables.number_table([[first, "initial weights", *columns.values()], *rows])


def _weights(case: CaseResult) -> str:
    adapted = ", first layer adapted to the channels" if case.training.get("adapted_stem") else ""
    return f"{case.setting['initial_weights']}{adapted}"


def _data_note(results: Results) -> list[PageElement]:
    """A paragraph if models were scored on different data; else empty."""
    data = [case.setting["evaluated_data"] for case in results.values() if case.metrics and case.setting]
    keys = ", ".join(different_keys(data))
    return [Text(f"The models were evaluated on different data ({keys}): do not compare their scores.")] if keys else []


def _direction(case: CaseResult, metric: str) -> str:
    """An arrow up or down; empty if the direction is unknown."""
    errors = case.training.get("lower_is_better")
    return "" if errors is None else " ↓" if sign(metric, errors) < 0 else " ↑"


def _shown(case: CaseResult) -> list[str]:
    """The metrics HEAD/METRIC in the table of scores: the main metric of each head and its columns in `SHOWN`."""
    shown = []
    for head, metrics in by_head(case.metrics).items():
        main = next((name for name in metrics if f"{head}/{name}" in case.training.get("main", [])), None)
        names = [*metrics][:SHOWN_METRICS]
        if main is not None:
            plain, mark, ending = main.partition("_aligned")
            beside = [f"{name}{mark}{ending}" for name in SHOWN[plain]] if plain in SHOWN else names
            names = list(dict.fromkeys([main, *(name for name in beside if name in metrics)]))[:SHOWN_METRICS]
        shown += [f"{head}/{name}" for name in names]
    return shown


def _costs(results: Results) -> Table:
    rows = [
        [
            name,
            size,
            f"{case.cost['parameters'] / 1e6:.2f}",
            f"{cost['multiply_adds'] / 1e9:.3g}",
            ", ".join(f"{metric} {_score(case, metric)}" for metric in _main_scores(case)),
        ]
        for name, case in results.items()
        for size, cost in case.cost.get("by_size", {}).items()
    ]
    return text_tables.number_table([["model", "size", "parameters, M", "multiply-adds, G", "scores"], *rows])


def _main_scores(case: CaseResult) -> dict[str, float]:
    """The main metrics; all metrics if the main ones are unknown."""
    main = case.training.get("main")
    return {name: value for name, value in case.metrics.items() if not main or name in main}


def _speed(results: Results) -> Table:
    rows = []
    for name, case in results.items():
        for key, timing in case.timings.items():
            device, mode, batch, _, size = key.split()
            memory, load = timing["memory_mb"], timing["load"]
            rows.append(
                [
                    name,
                    f"{device}, {mode}",
                    batch,
                    size,
                    f"{timing['p50_ms']:.1f}",
                    f"{timing['p95_ms']:.1f}",
                    f"{timing['spread']:.0%}",
                    "" if load is None else f"{load:.1f}",
                    f"{timing['images_per_second']:.1f}",
                    "" if memory is None else f"{memory:.0f}",
                ]
            )
    header = ["model", "mode", "batch", "size", "p50, ms", "p95, ms", "spread", "load", "images/s", "memory, MB"]
    return text_tables.number_table([header, *rows])


def _score(case: CaseResult, metric: str) -> str:
    """A score as text, such as "0.126", or "0.126 ± 0.004" over several seeds."""
    deviation = case.training.get("deviations", {}).get(metric)
    return f"{case.metrics[metric]:.3f}" + ("" if deviation is None else f" ± {deviation:.3f}")
