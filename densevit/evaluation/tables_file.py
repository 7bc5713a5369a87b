"""Evaluators' tables as CSV files: NAME-HEAD.csv, as in confusion-segmentation.csv."""

import csv
from collections.abc import Mapping
from pathlib import Path

from densevit.errors import DataError
from densevit.interfaces import Evaluator, Table


def write_tables(evaluators: Mapping[str, Evaluator], folder: Path) -> None:
    """Writes all tables of the evaluators of some heads into a folder."""
    for head, evaluator in evaluators.items():
        for name, table in evaluator.tables().items():
            write(table, folder / f"{name}-{head}.csv")


def write(table: Table, path: Path) -> None:
    """Writes a table's rows."""
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(table)


def read(path: Path) -> list[list[str]]:
    """Reads the rows of a file written by `write`, as text."""
    try:
        with path.open(newline="", encoding="utf-8") as file:
            return list(csv.reader(file))
    except (OSError, ValueError, csv.Error) as error:
        raise DataError(f"{path}: expected a table as CSV; found: {error}") from error
