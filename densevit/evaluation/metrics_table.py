"""Metrics as tables for the terminal."""

import itertools
from collections.abc import Mapping, Sequence

from rich.console import Group
from rich.table import Table
from rich.text import Text

from densevit.errors import counted
from densevit.evaluation.metrics_file import by_class, by_head, number, overall
from densevit.terminal import table

COLUMNS = 80  # of the terminal
METRICS_PER_ROW, CLASSES_PER_ROW = 6, 3  # at most
METRICS_PER_ROW_WITH_HEAD = 4  # in tables with a column of heads
NUMBERS_PER_ROW = 4  # in tables with several metrics per class


def metrics_table(metrics: Mapping[str, float]) -> Group:
    """One table of the heads' metrics, then tables of metrics per class (`AP/<class name>`); a dash is NaN. A line
    tells if mIoU is measured on a single class.

    Metrics of the same classes, such as IoU and accuracy, share a table.
    """
    heads = by_head(metrics)
    summary = {head: overall(values) for head, values in heads.items()}
    grids = [_grid(head, values, METRICS_PER_ROW) for head, values in summary.items()]
    tables = grids if len(heads) == 1 else [_head_table(summary)]
    for head, values in heads.items():
        for by_metric in by_class(values):
            if len(by_metric) == 1:
                [(metric, classes)] = by_metric.items()
                tables.append(_grid(f"{head}: {metric} of each class", classes, CLASSES_PER_ROW))
            else:
                tables.append(_class_table(f"{head}: each class", by_metric))
    notes = [Text(note, "yellow") for values in heads.values() if (note := single_class(values))]
    return Group(*tables, *notes)


def single_class(metrics: Mapping[str, float]) -> str:
    """A line about the metrics of a head (see `SemanticSegmentation`) if only one of several classes has pixels in the
    ground truth; else ""."""
    ious, recalls = (
        {name: metrics[name] for name in metrics if name.startswith(metric)} for metric in ("IoU/", "Acc/")
    )
    present = [name.removeprefix("Acc/") for name, value in recalls.items() if value == value]
    if "mIoU" not in metrics or len(recalls) < 2 or len(present) != 1:
        return ""
    extra = sum(value == value for value in ious.values()) - 1
    only = f"{counted(extra, 'class')} that {'are' if extra > 1 else 'is'} only predicted"
    mean = f"the mean of its IoU and 0 for {only}" if extra else "its IoU"
    return (
        f"Only one of {len(recalls)} classes has pixels in the ground truth, {present[0]!r}: mIoU is {mean}, which "
        "says nothing about other classes."
    )


def _grid(title: str, values: Mapping[str, float], pairs: int) -> Table:
    """Names with their values, up to `pairs` per row, in row-major order."""
    pairs = _fitting_pairs([values], pairs, COLUMNS)
    numbers = range(1, 2 * min(pairs, len(values)), 2)
    return table(_pair_rows(values, pairs), title=title, right=numbers, no_wrap=numbers)


def _head_table(heads: Mapping[str, Mapping[str, float]]) -> Table:
    """One group of rows per head: its name, and its metrics with their values."""
    pairs = _fitting_pairs(list(heads.values()), METRICS_PER_ROW_WITH_HEAD, COLUMNS - max(map(len, heads)) - 1)
    rows = [
        [Text() if index else Text(head, "bold"), *row]
        for head, values in heads.items()
        for index, row in enumerate(_pair_rows(values, pairs))
    ]
    numbers = range(2, 2 * pairs + 1, 2)
    return table(rows, right=numbers, no_wrap=numbers)


def _fitting_pairs(groups: Sequence[Mapping[str, float]], most: int, room: int) -> int:
    """The number of pairs of name and value per row that fit into `room` characters without wrapping; at least 1."""
    for pairs in range(most, 1, -1):
        rows = (row for values in groups for row in _pair_rows(values, pairs))
        widths = (max(map(len, column)) for column in itertools.zip_longest(*rows, fillvalue=Text()))
        if sum(widths) + 2 * (2 * pairs - 1) <= room:
            return pairs
    return 1


def _pair_rows(values: Mapping[str, float], pairs: int) -> list[list[Text]]:
    """Rows of cells: up to `pairs` names, each followed by its value."""
    cells = [cell for name, value in values.items() for cell in (Text(name, "cyan"), Text(number(value)))]
    return [cells[start : start + 2 * pairs] for start in range(0, len(cells), 2 * pairs)]


def _class_table(title: str, kinds: Mapping[str, Mapping[str, float]]) -> Table:
    """One row per class and one column per metric; few metrics put several classes side by side, in row-major order."""
    classes = list(next(iter(kinds.values())))
    side_by_side = min(max(1, NUMBERS_PER_ROW // len(kinds)), len(classes))
    header = ["class", *kinds]
    rows = []
    for start in range(0, len(classes), side_by_side):
        row: list[Text] = []
        for name in classes[start : start + side_by_side]:
            row += [Text()] if row else []  # spacing
            row += [Text(name, "cyan"), *(Text(number(kinds[metric][name])) for metric in kinds)]
        rows.append(row)
    width = len(header) + 1
    numbers = [n for n in range(width * side_by_side - 1) if n % width not in (0, width - 1)]
    headers = [*header, *(["", *header] * (side_by_side - 1))]
    return table(rows, headers, title, right=numbers, no_wrap=numbers)
