"""`metrics.csv`: one row per logged step or validation. A resumed run appends to it."""

import csv
from argparse import Namespace
from pathlib import Path
from typing import Any

from pytorch_lightning.loggers.logger import Logger
from pytorch_lightning.utilities import rank_zero_only

from densevit.atomic_io import replaced_file
from densevit.errors import DataError, one_line


class MetricsCsv(Logger):
    """Appends rows to a CSV file, and rewrites the file if there is a new column.

    Lightning's CSVLogger would delete the file of a resumed run.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path
        self.columns: list[str] = []
        if path.is_file():
            self.columns = self._header()

    def _header(self) -> list[str]:
        """Returns the columns, none if the file is empty. Raises DataError for any file but a table with `step`."""
        problem = "no column `step`"
        try:
            with self.path.open(newline="", encoding="utf-8") as file:
                columns = list(csv.DictReader(file).fieldnames or [])
            if not columns or "step" in columns:
                self.rows()
                return columns
        except (ValueError, csv.Error) as error:
            problem = one_line(error)
        raise DataError(
            f"{self.path}: is not the metrics table of a run: {problem}. Fix: move it away; the run continues without "
            "it."
        )

    @property
    def name(self) -> str:
        return ""

    @property
    def version(self) -> str:
        return ""

    @property
    def save_dir(self) -> str:
        """The run folder; Lightning's ModelCheckpoint writes to its `checkpoints`."""
        return str(self.path.parent)

    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """Does nothing: `config.yaml` has the hyperparameters."""

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        row = {"step": step, **metrics}
        new = [name for name in row if name not in self.columns]
        if new:
            rows = self.rows()
            self.columns += new
            self._write(rows)
        with self.path.open("a", newline="", encoding="utf-8") as file:
            csv.DictWriter(file, self.columns).writerow(row)

    def rows(self) -> list[dict[str, str]]:
        """Returns all rows as text, without an incomplete last line of a killed run."""
        if not self.path.is_file():
            return []
        with self.path.open(newline="", encoding="utf-8") as file:
            lines = [line.replace("\0", "") for line in file if line.endswith("\n")]
        return [
            row
            for row in csv.DictReader(lines)
            if None not in (*row, *row.values()) and (row["step"] or "").isdecimal()
        ]

    def remove_after(self, step: int) -> None:
        """Removes the rows after the checkpoint of this step; a resumed run writes them again.

        Training rows count optimiser steps from 0, so the checkpoint includes those below `step`; validation rows have
        the number of completed steps.
        """
        self._write([row for row in self.rows() if int(row["step"]) < step + (not row.get("train/loss"))])

    def _write(self, rows: list[dict[str, str]]) -> None:
        with replaced_file(self.path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, self.columns)
            writer.writeheader()
            writer.writerows(rows)
