"""A table of finished runs, as in a paper: one row per group of runs that differ only in their seed."""

import math
import re
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from densevit.config.data_schema import different_keys, evaluated_data
from densevit.config.yaml_io import parse
from densevit.errors import ConfigError
from densevit.evaluation import metrics_file
from densevit.visualization import comparison, report
from densevit.visualization.curves import read_curves
from densevit.visualization.html_page import Cell, Table
from densevit.visualization.tables import number
from densevit.visualization.text_tables import latex, markdown

NO_EFFECT = (
    "seed",
    "data.num_workers",
    "trainer.checkpoint_every",
    "trainer.keep_checkpoints",
    "trainer.log_every",
    "trainer.loggers",
    "trainer.stall_after",
)
"""Keys of a config in which the runs of a row may differ."""
DERIVED = (
    "training images",
    "validation images",
    "images per optimiser step",
    "optimiser steps",
    "precision",
    "parameters",
)
"""Derived values in a run's config.yaml that are equal for all runs of a row."""
COLUMNS = ("parameters, M", "images seen", "epochs", "seeds")
CAPTION = (
    "Metrics are those of the best validation, as fractions and metres; with several seeds, the mean ± the sample "
    "standard deviation."
)


@dataclass
class RunsTable:
    """rows: the numbers of the table. notes: for its readers. unfinished: a line for each run that is left out."""

    table: Table
    rows: list[dict[str, Any]]
    notes: list[str]
    unfinished: list[str]

    def text(self, form: Literal["md", "tex"]) -> str:
        """The table with its notes, which are comments in LaTeX."""
        if form == "md":
            return "\n\n".join([markdown(self.table), *self.notes])
        return "\n".join([*(f"% {note}" for note in self.notes), latex(self.table)])


@dataclass
class _Run:
    """values: the config as `section.key: value` without NO_EFFECT, and DERIVED. data: see `evaluated_data`."""

    path: Path
    seed: Any
    values: dict[str, str]
    data: dict[str, str]

    @property
    def metrics(self) -> dict[str, float]:
        """The metrics, without those of single classes."""
        metrics = metrics_file.read(self.path / "metrics.json")
        return {name: value for name, value in metrics.items() if not report.is_class_metric(name)}

    def count(self, name: str) -> int:
        """The number with which a derived value begins, as in "7,330, 12.00 epochs"."""
        return int(self.values[name].partition(", ")[0].replace(",", ""))


def runs_table(runs: Sequence[Path]) -> RunsTable:
    """Groups runs that differ only in their seed, with the mean and the sample standard deviation of each metric.

    The best mean of a metric is bold among rows of the same data. Raises ConfigError or DataError for a folder that is
    not a run, for two runs with the same config and seed, and if no run is finished.
    """
    groups: dict[str, list[_Run]] = {}
    unfinished = []
    for run in map(_read, runs):
        if reason := _unfinished(run):
            unfinished.append(f"{run.path}: is left out: {reason}")
            continue
        group = groups.setdefault(str(sorted(run.values.items())), [])
        for other in group:
            if other.seed == run.seed:
                raise ConfigError(
                    f"{run.path}: has the config and the seed of {other.path}, {run.seed}. Fix: name one of the two, "
                    "or train with another seed."
                )
        group.append(run)
    if not groups:
        raise ConfigError("\n".join(unfinished))
    table, rows, notes = _table(list(groups.values()))
    return RunsTable(table, rows, notes, unfinished)


def _read(path: Path) -> _Run:
    if (path / report.EVALUATION).is_file():
        raise ConfigError(f"{path}: is the folder of an evaluation. Fix: name the folder of a run.")
    file = path / "config.yaml"
    text = report.text_of(file)
    config, comments = parse(text, str(file)), dict(re.findall(r"^# ([^:]+): (.+)$", text, re.MULTILINE))
    try:
        seed, data = config["seed"], evaluated_data(config["data"])
        derived = {name: comments[name] for name in DERIVED}
    except (LookupError, TypeError, AttributeError):
        raise ConfigError(
            f"{file}: is not the config of a run, with a seed, data, and derived values as comments. Fix: name the "
            "folder of a run."
        ) from None
    values = comparison.flat_values(config) | {f"data.{key}": value for key, value in data.items()} | derived
    return _Run(path, seed, {key: value for key, value in values.items() if key not in NO_EFFECT}, data)


def _unfinished(run: _Run) -> str:
    """Why a run is not finished; empty for a finished run."""
    file, steps = run.path / "metrics.csv", run.count("optimiser steps")
    curves = read_curves(file) if file.is_file() else {}
    step = int(max((step for points in curves.values() for step, _ in points), default=0))
    if step < steps:
        return f"it has trained {step:,} of {steps:,} steps. To finish it: densevit train --resume {run.path}"
    return "" if run.metrics else "it has no metrics. Fix: train with heads and an evaluation."


def _table(groups: Sequence[Sequence[_Run]]) -> tuple[Table, list[dict[str, Any]], list[str]]:
    """The table, its numbers, and its notes."""
    first = [group[0] for group in groups]
    backbones, data = [run.values["backbone.name"] for run in first], [run.data for run in first]
    by_backbone = len(set(backbones)) == len(groups)
    names = backbones if by_backbone else comparison.names_of([run.path for run in first])
    rows = [_row(name, group) for name, group in zip(names, groups, strict=True)]
    metrics = list(dict.fromkeys(metric for row in rows for metric in row["metrics"]))
    one_head = len(metrics_file.by_head(dict.fromkeys(metrics, 0.0))) == 1
    titles = [metric.partition("/")[2] if one_head else metric for metric in metrics]
    header = ["backbone" if by_backbone else "run", *COLUMNS, *titles]
    lines = [[Cell(row["name"], left=True), *map(Cell, _facts(row))] for row in rows]
    best_of = comparison.best_positions([run.path for run in first], data)
    for metric in metrics:
        scores = [row["metrics"].get(metric, {"mean": math.nan}) for row in rows]
        best = best_of(metric, [round(score["mean"], 4) for score in scores])  # equal if they are as text
        for n, (line, score) in enumerate(zip(lines, scores, strict=True)):
            line.append(Cell(_text(**score), best=n in best))
    differences = _differences(first, (*different_keys(data), *(("backbone", "parameters") if by_backbone else ())))
    notes = [CAPTION, *(note.text for note in comparison.data_note(dict(zip(names, data, strict=True)))), *differences]
    return Table([Cell(name, left=n == 0) for n, name in enumerate(header)], lines), rows, notes


def _row(name: str, group: Sequence[_Run]) -> dict[str, Any]:
    """The numbers of a row."""
    run, metrics = group[0], [run.metrics for run in group]
    return {
        "name": name,
        "runs": [str(run.path) for run in group],
        "seeds": [run.seed for run in group],
        "parameters": run.count("parameters"),
        "images": run.count("optimiser steps") * run.count("images per optimiser step"),
        "epochs": float(run.values["optimiser steps"].split()[1]),
        "metrics": {name: _summary([own.get(name, math.nan) for own in metrics]) for name in metrics[0]},
    }


def _summary(values: Sequence[float]) -> dict[str, float]:
    """The mean, and for several values the sample standard deviation; NaN if one of the values is."""
    mean = statistics.fmean(values)
    if len(values) == 1:
        return {"mean": mean}
    return {"mean": mean, "deviation": mean if math.isnan(mean) else statistics.stdev(values)}


def _facts(row: Mapping[str, Any]) -> tuple[str, ...]:
    """The cells of COLUMNS."""
    return f"{row['parameters'] / 1e6:.2f}", f"{row['images']:,}", f"{row['epochs']:.2f}", str(len(row["seeds"]))


def _text(mean: float, deviation: float | None = None) -> str:
    """A metric, such as "0.4312 ± 0.0021"."""
    return number(mean) if deviation is None or math.isnan(mean) else f"{number(mean)} ± {number(deviation)}"


def _differences(runs: Sequence[_Run], ignored: tuple[str, ...]) -> list[str]:
    """A note on the keys, beside those ignored, in which rows differ; none if there are none."""
    keys = dict.fromkeys(key for run in runs for key in run.values if not key.startswith(ignored))
    different = [key for key in keys if len({run.values.get(key) for run in runs}) > 1]
    return [f"The rows also differ in {', '.join(different)}."] if different else []
