"""A page that compares several runs or evaluations."""

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from densevit.config.yaml_io import parse
from densevit.errors import ConfigError, DataError
from densevit.evaluation import metrics_file, tables_file
from densevit.evaluation.metric_order import sign
from densevit.grouping import grouped
from densevit.reporting import plots, run_files, run_report
from densevit.reporting.curves import Points, read_curves
from densevit.reporting.html_page import (
    Folded,
    Grid,
    Heading,
    Image,
    PageElement,
    PageSection,
    SvgPlot,
    Text,
    missing,
    table,
    text_table,
    write_page,
)
from densevit_workbench.reports.evaluated_data import different_keys, evaluated_data

MAX_IMAGES = 8  # images that all runs have drawn
ABSENT = "–"


@dataclass
class Legend(PageElement):
    """The colours of curves in several plots."""

    names: Sequence[str]


def write_comparison(runs: Sequence[Path], out: Path) -> Path:
    """Writes a page with the curves, metrics, images and config differences of several folders. Returns its path."""
    names, configs = _named(runs)
    images = _common_images(names)
    sections = [
        PageSection("Runs", _runs(names, configs)),
        PageSection("Metrics", _metrics(names, _data_of(configs))),
        PageSection("Config differences", _config_differences(configs)),
        PageSection("Curves", _curves(names)),
        *([PageSection("Images", _images(names, images))] if images else []),
    ]
    write_page(out, f"{len(names)} runs", " · ".join(names), sections, contents=True)
    return out


def comparison_overview(runs: Sequence[Path]) -> list[PageElement]:
    """Metrics and main curves of several folders, for a notebook."""
    names, configs = _named(runs)
    curves = [part for part in _curves(names) if not isinstance(part, Folded)]
    return [Heading(" · ".join(names)), *_metrics(names, _data_of(configs)), *curves]


def _named(runs: Sequence[Path]) -> tuple[dict[str, Path], dict[str, str]]:
    """The folders and the texts of their configs by name."""
    names = dict(zip(names_of(runs), map(Path, runs), strict=True))
    return names, {name: run_files.text_of(run / "config.yaml") for name, run in names.items()}


def names_of(runs: Sequence[Path]) -> list[str]:
    """The shortest suffixes of the folders' paths that are distinct."""
    parts = [Path(os.path.abspath(run)).parts for run in runs]
    for length in range(1, max(map(len, parts)) + 1):
        names = ["/".join(path[-length:]) for path in parts]
        if len(set(names)) == len(names):
            return names
    return [f"{'/'.join(path[-1:])} ({n})" for n, path in enumerate(parts, start=1)]  # one folder several times


def _runs(names: Mapping[str, Path], configs: Mapping[str, str]) -> list[PageElement]:
    rows = [[name, run_files.about(run, configs[name])] for name, run in names.items()]
    return [text_table([["run", "about"], *rows])]


def _read_metrics(run: Path) -> dict[str, float]:
    with suppress(DataError):
        return metrics_file.read(run / "metrics.json")
    return {}


def _data_of(configs: Mapping[str, str]) -> dict[str, dict[str, str] | None]:
    """`evaluated_data` of each run; None if the run's config does not tell."""
    data: dict[str, dict[str, str] | None] = {}
    for name, text in configs.items():
        data[name] = None
        with suppress(ConfigError, KeyError, TypeError, AttributeError):
            data[name] = evaluated_data(parse(text, "config.yaml")["data"])
    return data


def data_note(data: Mapping[str, Mapping[str, str] | None]) -> list[Text]:
    """A paragraph about differences between the runs' data; empty for equal data."""
    unknown = [name for name, section in data.items() if section is None]
    keys = different_keys(section for section in data.values() if section is not None)
    parts = [f"The runs were evaluated on different data ({', '.join(keys)})."] if keys else []
    parts += [f"The data of {', '.join(unknown)} is not known."] if unknown else []
    only = "The best number is bold only among runs of the same data and split."
    return [Text(f"{' '.join(parts)} {only}")] if parts else []


def _metrics(names: Mapping[str, Path], data: Mapping[str, Mapping[str, str] | None]) -> list[PageElement]:
    """One row per metric, one column per run; in each row, the best number among runs of the same data is bold."""
    best_of = best_positions(list(names.values()), list(data.values()))
    metrics = {name: _read_metrics(run) for name, run in names.items()}
    rows, best = [], []
    for metric in dict.fromkeys(metric for values in metrics.values() for metric in values):
        if run_report.is_class_metric(metric):
            continue
        values = [run_metrics.get(metric) for run_metrics in metrics.values()]
        rows.append([metric, *(ABSENT if value is None else repr(value) for value in values)])
        best.append([n + 1 for n in best_of(metric, values)])
    if not rows:
        return [missing("No run has metrics.")]
    return [*data_note(data), table([["metric", *names], *rows], best=best)]


def best_positions(
    runs: Sequence[Path], data: Sequence[Mapping[str, str] | None]
) -> Callable[[str, Sequence[float | None]], list[int]]:
    """Returns a function from a metric and its values, one per folder, to the positions of the best values.

    One position per group of folders that were evaluated on the same data (or several if equal); none if no folder
    lists which metrics are errors.
    """
    groups = grouped((str(sorted(section.items())), n) for n, section in enumerate(data) if section is not None)
    known_errors = [tables_file.read_lower_is_better(run) for run in runs]
    lower = {metric for errors in known_errors for metric in errors or ()}
    compared = any(errors is not None for errors in known_errors)

    def best_of(metric: str, values: Sequence[float | None]) -> list[int]:
        goodness = [None if value is None else sign(metric, lower) * value for value in values]
        return [n for group in groups.values() for n in _best(goodness, group)] if compared else []

    return best_of


def _best(values: Sequence[float | None], group: Sequence[int]) -> list[int]:
    """Positions of a group's largest value; none if all values are equal."""
    comparable = {n: value for n in group if (value := values[n]) is not None and value == value}
    best = max(comparable.values()) if len(set(comparable.values())) > 1 else None
    return [n for n, value in comparable.items() if value == best]


def flat_values(values: Any, prefix: str = "") -> dict[str, str]:
    """Flattens nested sections to `section.key: value as text`."""
    if isinstance(values, Mapping) and values:
        return {
            key: text
            for name, value in values.items()
            for key, text in flat_values(value, f"{prefix}.{name}" if prefix else str(name)).items()
        }
    return {prefix: str(values)}


def _config_differences(configs: Mapping[str, str]) -> list[PageElement]:
    """The keys whose values differ."""
    flat: dict[str, dict[str, str]] = {}
    for name, text in configs.items():
        try:
            flat[name] = flat_values(parse(text, "config.yaml"))
        except ConfigError as error:
            return [missing(f"{name}: {error}")]
        if not text:
            return [missing(f"{name} has no config.yaml.")]
    keys = dict.fromkeys(key for values in flat.values() for key in values)
    rows = [[key, *(values.get(key, ABSENT) for values in flat.values())] for key in keys]
    different = [row for row in rows if len(set(row[1:])) > 1]
    return [text_table([["key", *flat], *different]) if different else Text("The configs are equal.")]


def _curves(names: Mapping[str, Path]) -> list[PageElement]:
    """One plot per curve of metrics.csv, over all runs with this curve."""
    curves: dict[str, dict[str, Points]] = {}
    for run, folder in names.items():
        path = folder / "metrics.csv"
        for name, points in (read_curves(path) if path.is_file() else {}).items():
            if not run_report.is_class_metric(name):
                curves.setdefault(name, {})[run] = points
    if not curves:
        return [missing("No run has curves.")]
    first = run_report.leading(curves)
    further = [_overlay(name, curves[name], names) for name in curves if name not in first]
    return [
        Legend(list(names)),
        Text("Against optimiser steps."),
        Grid("plots", [_overlay(name, curves[name], names) for name in first]),
        *([Folded(f"{len(further)} more", [Grid("plots", further)])] if further else []),
    ]


def _overlay(title: str, curves: Mapping[str, Any], names: Mapping[str, Path]) -> SvgPlot:
    """One plot in which each run has its own colour."""
    return SvgPlot(title, plots.lines(curves, order=list(names)))


def _common_images(names: Mapping[str, Path]) -> list[Path]:
    """Evenly spaced images among those drawn by all runs, relative to the run folders."""
    per_run = [
        [path.relative_to(run / "predictions") for path in run_files.sorted_images(run / "predictions")]
        for run in names.values()
    ]
    common = [path for path in per_run[0] if all(path in paths for paths in per_run[1:])]
    most = min(MAX_IMAGES, len(common))
    return [common[n * len(common) // most] for n in range(most)]


def _images(names: Mapping[str, Path], paths: Sequence[Path]) -> list[PageElement]:
    parts: list[PageElement] = [Text("Images that all runs have drawn, with the visualization of each run.")]
    for path in paths:
        images = [Image(run / "predictions" / path, name) for name, run in names.items()]
        parts += [Heading(path.with_suffix("").as_posix()), Grid("images", images)]
    return parts
