"""A table of finished runs, as in a paper: one row per group of runs that differ only in their seed."""

import math
import re
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from densevit.config.yaml_io import parse
from densevit.errors import ConfigError, listed
from densevit.evaluation import metrics_file
from densevit.evaluation.metrics_file import number
from densevit.reporting import run_files, run_report
from densevit.reporting.curves import read_curves
from densevit.reporting.html_page import Cell, Table
from densevit.weights.state_dict_io import read_header
from densevit_workbench.reports import run_comparison
from densevit_workbench.reports.evaluated_data import different_keys, evaluated_data
from densevit_workbench.reports.text_tables import latex, markdown

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
MAX_KEYS = 20  # that a note lists
CAPTION = (
    "Metrics come from the best validation, as fractions and metres; with several seeds, the mean ± the sample "
    "standard deviation."
)


@dataclass
class RunsTable:
    """text: the table with its notes. rows: the table's numbers. unfinished: a message per skipped run."""

    text: str
    rows: list[dict[str, Any]]
    unfinished: list[str]


@dataclass
class _Run:
    """values: the config's values by `section.key`, without the keys of NO_EFFECT, with those of DERIVED. data: the
    result of `evaluated_data`. metrics: all metrics except metrics of single classes. step: the last optimiser step in
    metrics.csv. validations: the optimiser steps with a validation.
    """

    path: Path
    seed: Any
    values: dict[str, str]
    data: dict[str, str]
    metrics: dict[str, float]
    step: int
    validations: set[float]

    def count(self, name: str) -> int:
        """The leading number of a derived value such as "7,330, 12.00 epochs"."""
        return int(self.values[name].partition(", ")[0].replace(",", ""))


def runs_table(runs: Sequence[Path], form: Literal["md", "tex"]) -> RunsTable:
    """Groups runs that differ only in their seed, with the mean and the sample standard deviation of each metric.

    The best mean of a metric is bold among rows of the same data. In LaTeX, notes are comments. Raises ConfigError or
    DataError for a folder that is not a run, for two runs with the same config and seed, and if no run is finished.
    """
    groups: dict[str, dict[Any, _Run]] = {}
    unfinished = []
    for run in map(_read, runs):
        if reason := _unfinished(run):
            unfinished.append(f"{run.path}: is left out: {reason}")
            continue
        group = groups.setdefault(str(sorted(run.values.items())), {})
        if group.setdefault(run.seed, run) is not run:
            raise ConfigError(
                f"{run.path}: has the config and the seed of {group[run.seed].path}, {run.seed}. Fix: name one of the "
                "two, or train with another seed."
            )
    if not groups:
        raise ConfigError("\n".join(unfinished))
    by_seed = list(groups.values())
    first = [next(iter(group.values())) for group in by_seed]
    backbones = [run.values["backbone.name"] for run in first]
    by_backbone = len(set(backbones)) == len(backbones)
    names = backbones if by_backbone else run_comparison.names_of([run.path for run in first])
    rows = [_row(name, list(group.values())) for name, group in zip(names, by_seed, strict=True)]
    table = _table("backbone" if by_backbone else "run", rows, first)
    notes = [CAPTION, *_notes(first, ("backbone", "parameters") if by_backbone else ())]
    text = "\n\n".join([markdown(table), *notes])
    if form == "tex":
        text = "\n".join([*(f"% {note}" for note in notes), latex(table)])
    return RunsTable(text, rows, unfinished)


def _read(path: Path) -> _Run:
    if (path / run_report.EVALUATION).is_file():
        raise ConfigError(f"{path}: is the folder of an evaluation. Fix: name the folder of a run.")
    file = path / "config.yaml"
    text = run_files.text_of(file)
    config, comments = parse(text, str(file)), dict(re.findall(r"^# ([^:]+): (.+)$", text, re.MULTILINE))
    try:
        seed, data = config["seed"], evaluated_data(config["data"])
        derived = {name: comments[name] for name in DERIVED} | {
            "backbone.name": run_files.backbone_name(config["backbone"])
        }
    except (LookupError, TypeError, AttributeError):
        raise ConfigError(
            f"{file}: is not the config of a run, with a seed, a backbone, data, and derived values as comments. Fix: "
            "name the folder of a run."
        ) from None
    values = run_comparison.flat_values(config) | {f"data.{key}": value for key, value in data.items()} | derived
    metrics = metrics_file.read(path / "metrics.json") if (path / "metrics.json").is_file() else {}
    overall = {name: value for name, value in metrics.items() if not run_report.is_class_metric(name)}
    curves = read_curves(path / "metrics.csv") if (path / "metrics.csv").is_file() else {}
    steps = {name: {step for step, _ in points} for name, points in curves.items()}
    step, validations = (
        int(max(set().union(*steps.values()), default=0)),
        set().union(*(steps.get(name, ()) for name in metrics)),
    )
    values = {key: value for key, value in values.items() if key not in NO_EFFECT}
    return _Run(path, seed, values, data, overall, step, validations)


def _unfinished(run: _Run) -> str:
    """The reason why a run is unfinished; empty for a finished run."""
    steps = run.count("optimiser steps")
    if run.step < steps and not _ended_by_patience(run):
        return (
            f"its metrics.csv ends at step {run.step:,} of {steps:,}. To finish it: densevit train --resume {run.path}"
        )
    return "" if run.metrics else "its metrics.json has no metrics. Fix: train with heads and an evaluation."


def _ended_by_patience(run: _Run) -> bool:
    """Whether `trainer.patience` ended the run: as many validations follow the step of the saved model."""
    patience, model = run.values.get("trainer.patience", "None"), run.path / "model.safetensors"
    if patience == "None" or not model.is_file():
        return False
    best = int(read_header(model)["step"])
    return sum(step > best for step in run.validations) >= int(patience)


def _row(name: str, runs: Sequence[_Run]) -> dict[str, Any]:
    """The numbers of a row."""
    run, step = runs[0], statistics.fmean(run.step for run in runs)
    return {
        "name": name,
        "runs": [str(run.path) for run in runs],
        "seeds": [run.seed for run in runs],
        "parameters": run.count("parameters"),
        "images": round(step * run.count("images per optimiser step")),
        "epochs": float(run.values["optimiser steps"].split()[1]) * step / run.count("optimiser steps"),
        "metrics": {name: _summary([run.metrics.get(name, math.nan) for run in runs]) for name in run.metrics},
    }


def _summary(values: Sequence[float]) -> dict[str, float]:
    """The mean, and for several values the sample standard deviation; NaN if any value is NaN."""
    mean = statistics.fmean(values)
    return (
        {"mean": mean}
        if len(values) == 1 or math.isnan(mean)
        else {"mean": mean, "deviation": statistics.stdev(values)}
    )


def _table(title: str, rows: Sequence[Mapping[str, Any]], first: Sequence[_Run]) -> Table:
    """The table of runs or of groups of runs, with the best scores marked.

    title: the header of the first column, which names the rows. first: the first run of each row; only scores on the
    same data are compared.
    """
    names = dict.fromkeys(name for row in rows for name in row["metrics"])
    one_head = len(metrics_file.by_head(dict.fromkeys(names, 0.0))) == 1
    header = [title, "parameters, M", "images seen", "epochs", "seeds"]
    header += [name.partition("/")[2] if one_head else name for name in names]
    lines = []
    for row in rows:
        counts = f"{row['parameters'] / 1e6:.2f}", f"{row['images']:,}", f"{row['epochs']:.2f}", f"{len(row['seeds'])}"
        lines.append([Cell(row["name"], left=True), *map(Cell, counts)])
    best_of = run_comparison.best_positions([run.path for run in first], [run.data for run in first])
    for name in names:
        scores = [row["metrics"].get(name, {"mean": math.nan}) for row in rows]
        best = best_of(name, [round(score["mean"], 4) for score in scores])  # scores are equal if their texts are
        for n, score in enumerate(scores):
            lines[n].append(Cell(" ± ".join(map(number, score.values())), best=n in best))
    return Table([Cell(text, left=n == 0) for n, text in enumerate(header)], lines)


def _notes(first: Sequence[_Run], ignored: tuple[str, ...]) -> list[str]:
    """The keys in which rows differ. first: a run of each row. ignored: beginnings of keys."""
    data = {str(run.path): run.data for run in first}
    ignored = (*ignored, *different_keys(data.values()))  # the first note names them
    keys = dict.fromkeys(key for run in first for key in run.values if not key.startswith(ignored))
    different = [key for key in keys if len({run.values.get(key) for run in first}) > 1]
    also = [f"The rows also differ in {listed(different, MAX_KEYS)}."] if different else []
    return [note.text for note in run_comparison.data_note(data)] + also
