"""`metrics.csv`: one row a logged step or validation, kept when a run is resumed."""

import csv
from argparse import Namespace
from pathlib import Path
from typing import Any

from pytorch_lightning.loggers.logger import Logger
from pytorch_lightning.utilities import rank_zero_only


class MetricsCsv(Logger):
    """Appends rows to a CSV file, which is rewritten when a new column comes.

    Lightning's own CSVLogger deletes the file of a run that is resumed.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path
        self.columns: list[str] = []
        if path.is_file():
            with path.open(newline="") as file:
                self.columns = list(csv.DictReader(file).fieldnames or [])

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
            with self.path.open("w", newline="") as file:
                writer = csv.DictWriter(file, self.columns)
                writer.writeheader()
                writer.writerows(rows)
        with self.path.open("a", newline="") as file:
            csv.DictWriter(file, self.columns).writerow(row)

    def rows(self) -> list[dict[str, str]]:
        """All rows, as text."""
        if not self.path.is_file():
            return []
        with self.path.open(newline="") as file:
            return list(csv.DictReader(file))

    def forget_after(self, step: int) -> None:
        """Drops the rows that a stopped run wrote after the checkpoint that is resumed."""
        rows = [row for row in self.rows() if int(row["step"] or 0) <= step]
        with self.path.open("w", newline="") as file:
            writer = csv.DictWriter(file, self.columns)
            writer.writeheader()
            writer.writerows(rows)
