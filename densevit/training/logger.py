"""`metrics.csv`: one row a logged step or validation, kept when a run is resumed."""

import csv
from argparse import Namespace
from pathlib import Path
from typing import Any

from pytorch_lightning.loggers.logger import Logger
from pytorch_lightning.utilities import rank_zero_only

from densevit.errors import DataError, one_line


class MetricsCsv(Logger):
    """Appends rows to a CSV file, which is rewritten when a new column comes.

    Lightning's own CSVLogger deletes the file of a run that is resumed.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path
        self.columns: list[str] = []
        if path.is_file():
            self.columns = self._header()

    def _header(self) -> list[str]:
        """The file's columns; none where it is empty. Raises DataError where it is no table of such rows."""
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
            f"{self.path}: is no table of metrics as a run writes it: {problem}. "
            "Move it away: the run goes on without it."
        )

    @property
    def name(self) -> str:
        return ""

    @property
    def version(self) -> str:
        return ""

    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """Nothing: `config.yaml` holds them."""

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        row = {"step": step, **metrics}
        new = [name for name in row if name not in self.columns]
        if new:
            rows = self.rows()
            self.columns += new
            self._write(rows)
        with self.path.open("a", newline="") as file:
            csv.DictWriter(file, self.columns).writerow(row)

    def rows(self) -> list[dict[str, str]]:
        """All rows, as text. The last line is left out where a killed run did not finish it."""
        if not self.path.is_file():
            return []
        with self.path.open(newline="") as file:
            lines = [line.replace("\0", "") for line in file if line.endswith("\n")]
        return [
            row
            for row in csv.DictReader(lines)
            if None not in (*row, *row.values()) and (row["step"] or "").isdecimal()
        ]

    def forget_after(self, step: int) -> None:
        """Drops the rows that a stopped run wrote after the checkpoint of this step, which a resumed one writes again.

        Optimiser steps are numbered from 0, so that the checkpoint has made those below `step`; a validation has the
        number of steps made before it.
        """
        self._write([row for row in self.rows() if int(row["step"]) < step + (not row.get("train/loss"))])

    def _write(self, rows: list[dict[str, str]]) -> None:
        unfinished = self.path.with_suffix(".partial")
        with unfinished.open("w", newline="") as file:
            writer = csv.DictWriter(file, self.columns)
            writer.writeheader()
            writer.writerows(rows)
        unfinished.replace(self.path)
