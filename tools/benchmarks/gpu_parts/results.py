"""Results of the cases: a json and a Markdown table, written after each case."""

import importlib.util
import json
import platform
import subprocess
from collections.abc import Callable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import torch


class Setting(NamedTuple):
    """device: the device that is measured. smoke: small sizes, on a CPU. folder: where the part writes files. end: the
    end of the part's time, on the clock of `time.monotonic()`.
    """

    device: torch.device
    smoke: bool
    folder: Path
    end: float


Case = tuple[str, Callable[[Setting], Mapping[str, Any]]]


class MissingPackageError(Exception):
    """An optional package of a case is not installed."""


def need(*packages: str) -> None:
    """Raises MissingPackageError if one of these is not installed."""
    for name in packages:
        if importlib.util.find_spec(name) is None:
            raise MissingPackageError(f"{name} is not installed")


class Results:
    """The rows of `results.json` in a folder. A row: part, case, seconds, values, error."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.rows = folder, list[dict[str, Any]]()
        self.machine: dict[str, Any] = {}
        self.planned: dict[str, list[str]] = {}
        if (folder / "results.json").is_file():
            self.load()

    def load(self) -> None:
        content = json.loads((self.folder / "results.json").read_text())
        self.machine, self.planned, self.rows = content["machine"], content["planned"], content["rows"]

    def start(self, smoke: bool) -> None:
        """Forgets earlier results, and describes the machine."""
        packages = ("densevit", "torch", "torchvision", "pytorch-lightning", "timm", "transformers")
        versions = {d.metadata["Name"]: d.version for d in metadata.distributions() if d.metadata["Name"] in packages}
        self.machine = {"smoke": smoke, "python": platform.python_version(), **versions}
        if torch.cuda.is_available():
            card = torch.cuda.get_device_properties(0)
            driver = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
            self.machine |= {
                "card": card.name,
                "GiB": round(card.total_memory / 2**30, 1),
                "CUDA": torch.version.cuda,
                "driver": subprocess.run(driver, capture_output=True, text=True).stdout.strip(),
            }
        self.planned, self.rows = {}, []
        self._write()

    def plan(self, part: str, cases: list[str]) -> None:
        self.planned[part] = cases
        self._write()

    def add(self, part: str, case: str, values: Mapping[str, Any], error: str, seconds: float) -> None:
        row = {"part": part, "case": case, "seconds": round(seconds, 1), "values": dict(values), "error": error}
        self.rows.append(row)
        self._write()

    def has(self, part: str, case: str) -> bool:
        return any((row["part"], row["case"]) == (part, case) for row in self.rows)

    def not_run(self, part: str) -> str:
        """The cases of a part for which there was no time, or whose process was killed."""
        return ", ".join(case for case in self.planned.get(part, []) if not self.has(part, case))

    def _write(self) -> None:
        content = {"machine": self.machine, "planned": self.planned, "rows": self.rows}
        (self.folder / "results.json").write_text(json.dumps(content, indent=1, default=str))
        (self.folder / "table.md").write_text(self._table())

    def _table(self) -> str:
        lines = ["; ".join(f"{key} {value}" for key, value in self.machine.items()), ""]
        for part, cases in self.planned.items():
            lines += [f"## {part}", "", "| case | result | seconds |", "|---|---|---|"]
            rows = [row for row in self.rows if row["part"] == part]
            for row in rows:
                shown = [f"{k} {_shown(v)}" for k, v in row["values"].items() if k != "output"]
                shown += [row["error"]] if row["error"] else []
                lines.append(f"| {row['case']} | {', '.join(shown).replace('|', '/')} | {row['seconds']} |")
            missing = [case for case in cases if not self.has(part, case)]
            lines += ["", f"Not run: {', '.join(missing)}.", ""] if missing else [""]
            for row in rows:
                if "output" in row["values"]:
                    lines += [f"{row['case']}:", "", "```text", row["values"]["output"].rstrip(), "```", ""]
        return "\n".join(lines)


def _shown(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
