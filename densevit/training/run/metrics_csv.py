"""`metrics.csv`: one row per logged step or validation. A resumed run appends to it."""

import csv
from argparse import Namespace
from pathlib import Path
from typing import Any

from pytorch_lightning.loggers.logger import Logger
from pytorch_lightning.utilities import rank_zero_only

from densevit.atomic_io import replaced_file
from densevit.errors import DataError


class MetricsCsv(Logger):
    """Appends rows to a CSV file, and rewrites it for a new column.

    Lightning's CSVLogger would delete the file of a resumed run.
    """

    name = version = ""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path
        self.columns = list(self._read().fieldnames or [])
        if self.columns and "step" not in self.columns:
            raise DataError(f"{path}: has no column `step`, so it belongs to no run. Fix: move it away.")

    @property
    def save_dir(self) -> str:
        """The run folder; Lightning's ModelCheckpoint writes to its `checkpoints`."""
        return str(self.path.parent)

    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """Does nothing: `config.yaml` contains the hyperparameters."""

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
        """All rows as text, without an incomplete last line of a killed run."""
        return [row for row in self._read() if None not in (*row, *row.values()) and (row["step"] or "").isdecimal()]

    def _read(self) -> "csv.DictReader[str]":
        if not self.path.is_file():
            return csv.DictReader([])
        with self.path.open(newline="", encoding="utf-8", errors="replace") as file:
            return csv.DictReader([line.replace("\0", "") for line in file if line.endswith("\n")])

    def remove_after(self, step: int) -> None:
        """Removes the rows after the checkpoint of a step; a resumed run writes them again.

        Training rows count optimiser steps from 0, so the checkpoint includes rows below `step`; validation rows
        contain the number of completed steps.
        """
        self._write([row for row in self.rows() if int(row["step"]) < step + (not row.get("train/loss"))])

    def _write(self, rows: list[dict[str, str]]) -> None:
        with replaced_file(self.path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, self.columns)
            writer.writeheader()
            writer.writerows(rows)
