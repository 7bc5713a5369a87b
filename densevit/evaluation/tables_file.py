"""Files of evaluators: tables as NAME-HEAD.csv, such as confusion-segmentation.csv, and plots in plots.json."""

import csv
import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from densevit.atomic_io import replaced_file
from densevit.errors import DataError, one_line
from densevit.evaluation.metric_order import error_metrics
from densevit.interfaces import DEFAULT_THRESHOLD, Evaluator, Plot, Table

PLOTS, IMAGES, LOWER, THRESHOLDS = "plots.json", "images", "lower_is_better.json", "thresholds.json"


FORM: Any = {"encoding": "utf-8", "errors": "surrogateescape", "newline": ""}
"""Options for writing. File names that are not valid UTF-8 keep their bytes."""

READ_FORM: Any = {**FORM, "encoding": "utf-8-sig"}
"""Options for reading, with or without a byte-order mark, which spreadsheets write."""


def write_tables(
    evaluators: Mapping[str, Evaluator], folder: Path, names: Mapping[int | str, str], thresholds: Mapping[str, float]
) -> None:
    """Writes the tables, the plots and the image scores of heads' evaluators into a folder.

    images-HEAD.csv has the worst images first; images of equal score are sorted by id. lower_is_better.json lists the
    error metrics, thresholds.json the score thresholds of tables and image scores by head. names: image names by id;
    other images are named by their id. thresholds: the model's, by head.
    """
    used = {head: score for head, score in thresholds.items() if head in evaluators and evaluators[head].uses_threshold}
    for head, evaluator in evaluators.items():
        threshold = used.get(head, DEFAULT_THRESHOLD)
        for name, table in evaluator.tables(evaluator.records, threshold).items():
            write(table, folder / f"{name}-{head}.csv")
        scores = zip(evaluator.ids, evaluator.image_scores(evaluator.records, threshold), strict=True)
        ranked = [(score, isinstance(image_id, str), image_id) for image_id, score in scores if score is not None]
        if ranked:
            named = [[names.get(image_id, image_id), image_id, score] for score, _, image_id in sorted(ranked)]
            write([["image", "image_id", "score"], *named], folder / f"{IMAGES}-{head}.csv")
    (folder / LOWER).write_text(json.dumps(error_metrics(evaluators)) + "\n", encoding="utf-8")
    if used:
        (folder / THRESHOLDS).write_text(json.dumps(used) + "\n", encoding="utf-8")
    plots = {
        head: {name: asdict(plot) for name, plot in head_plots.items()}
        for head, evaluator in evaluators.items()
        if (head_plots := evaluator.plots(evaluator.records))
    }
    if plots:
        (folder / PLOTS).write_text(json.dumps(plots) + "\n", encoding="utf-8")


def remove_tables(folder: Path) -> None:
    """Removes the files of `write_tables`."""
    for path in (*folder.glob("*-*.csv"), *(folder / name for name in (PLOTS, LOWER, THRESHOLDS))):
        path.unlink(missing_ok=True)


def read_lower_is_better(folder: Path) -> list[str] | None:
    """The error metrics of a folder, as HEAD/METRIC; None without the file."""
    try:
        return [str(name) for name in json.loads((folder / LOWER).read_text(encoding="utf-8"))]
    except (OSError, ValueError, TypeError):
        return None


def read_thresholds(folder: Path) -> dict[str, float]:
    """The score thresholds of tables and image scores by head; none without the file."""
    try:
        thresholds = json.loads((folder / THRESHOLDS).read_text(encoding="utf-8"))
        return {str(head): float(score) for head, score in thresholds.items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}


def read_plots(folder: Path) -> dict[str, dict[str, Plot]]:
    """The plots of a folder by head and name; none without the file."""
    path = folder / PLOTS
    if not path.is_file():
        return {}
    try:
        heads = json.loads(path.read_text(encoding="utf-8"))
        return {head: {name: _plot(**plot) for name, plot in plots.items()} for head, plots in heads.items()}
    except (OSError, ValueError, AttributeError, TypeError, RecursionError) as error:
        raise DataError(f"{path}: expected plots as JSON; found: {one_line(error)}") from error


def _plot(x: str, y: str, curves: Mapping[str, list[list[float]]], unit_axes: bool) -> Plot:
    points = {name: [(float(a), float(b)) for a, b in points] for name, points in curves.items()}
    return Plot(str(x), str(y), points, bool(unit_axes))


def write(table: Table, path: Path) -> None:
    """Writes a table's rows."""
    with replaced_file(path) as temporary, temporary.open("w", **FORM) as file:
        csv.writer(file).writerows(table)


def read(path: Path) -> list[list[str]]:
    """Reads the rows of a file written by `write`, as text."""
    try:
        with path.open(**READ_FORM) as file:
            return [*csv.reader(file)]
    except (OSError, ValueError, csv.Error) as error:
        raise DataError(f"{path}: expected a table as CSV; found: {error}") from error


def read_values(path: Path) -> list[list[str | int | float]]:
    """Reads the rows of a file written by `write`; converts numbers, except in the header and the first column."""
    header, *rows = read(path)
    return [[*header], *([*row[:1], *(_value(cell) for cell in row[1:])] for row in rows)]


def _value(cell: str) -> str | int | float:
    for number_type in (int, float):
        with suppress(ValueError):
            return number_type(cell)
    return cell
