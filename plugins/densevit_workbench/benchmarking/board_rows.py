"""The rows of a board: one CSV per protocol, a row per backbone, measured or published."""

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any

from densevit.atomic_io import replaced_file
from densevit.errors import DataError, counted, one_line
from densevit.evaluation.csv_options import FORM, READ_FORM
from densevit.evaluation.metric_order import sign
from densevit.evaluation.metrics_file import overall
from densevit_workbench.benchmarking.benchmark_results import CaseResult
from densevit_workbench.benchmarking.digest import PARTS, digest_of

VERSION = "1"  # of the files
TEXTS: tuple[str, ...] = (
    "backbone",
    "training",
    "source",
    "command",
    "digest",
    *PARTS,
    "input",
    "seeds",
    "images",
    "parameters",
)
TEXTS += ("multiply_adds", "machine", "date", "main", "lower_is_better")
MEASURED = "measured"


@dataclass(frozen=True)
class Row:
    """A backbone's scores under a protocol.

    texts: the values of `TEXTS`. training: "frozen" or "trained". source: "measured", or the publication. input: the
    size of the network's input in pixels. main, lower_is_better: metrics, separated by spaces. scores: value, low and
    high by metric HEAD/METRIC; nan without an interval.
    """

    texts: Mapping[str, str]
    scores: Mapping[str, tuple[float, float, float]] = field(default_factory=dict)

    @property
    def parts(self) -> dict[str, str]:
        """What the digest is of."""
        return {name: self.texts[name] for name in PARTS}

    @property
    def is_measured(self) -> bool:
        return self.texts["source"] == MEASURED

    @property
    def main(self) -> list[str]:
        """The main metrics that the row has."""
        return [name for name in self.texts["main"].split() if name in self.scores]

    def sign(self, metric: str) -> int:
        """-1 if lower is better, else 1."""
        return sign(metric, self.texts["lower_is_better"].split())


def row_of(result: CaseResult, facts: Mapping[str, Any]) -> Row:
    """The row of a model that was trained or probed."""
    training, setting = result.training, result.setting
    size = "x".join(map(str, setting["image_size"] or ())) or "by image"
    cost: dict[str, Any] = next(iter(result.cost.get("by_size", {}).values()), {})
    values = training["digest"] | {
        "backbone": result.backbone,
        "training": "frozen" if setting["frozen"] else "trained",
        "source": MEASURED,
        "command": facts["command"],
        "digest": digest_of(training["digest"]),
        "input": size,
        "seeds": " ".join(map(str, training["seeds"])),
        "images": training["images"],
        "parameters": result.cost.get("parameters", ""),
        "multiply_adds": cost.get("multiply_adds", ""),
        "machine": f"{training['device']}, {counted(facts['threads'], 'thread')}, {training['precision']}",
        "date": date.today().isoformat(),
        "main": " ".join(training["main"]),
        "lower_is_better": " ".join(training["lower_is_better"]),
    }
    nowhere = [float("nan")] * 2
    heads = {f"{head}/{name}" for head in _heads(result.metrics) for name in overall(_of(result.metrics, head))}
    scores = {name: (value, *training["intervals"].get(name, nowhere)) for name, value in result.metrics.items()}
    return Row({name: str(values[name]) for name in TEXTS}, {n: s for n, s in scores.items() if n in heads})


def read_rows(path: Path) -> list[Row]:
    """Reads a file. Raises DataError for another version, and for a row without a command or with a wrong digest."""
    try:
        with path.open(**READ_FORM) as file:
            lines = [*csv.DictReader(file, strict=True)]
    except (OSError, ValueError, csv.Error) as error:
        raise DataError(f"{path}: expected the rows of a board as CSV; found: {one_line(error)}") from error
    rows = []
    for number, line in enumerate(lines, 2):
        where = f"{path}, line {number}"
        if line.get("version") != VERSION or not set(TEXTS) <= line.keys():
            raise DataError(
                f"{where}: version {line.get('version') or 'unknown'} of a board; expected version {VERSION}. Fix: "
                "measure its rows again with densevit benchmark --board."
            )
        texts = {name: line[name] or "" for name in TEXTS}
        row = Row(texts, _scores(line, where))
        if row.is_measured and not texts["command"].strip():
            raise DataError(f"{where}: {texts['backbone']} has no command. Fix: add it, or name a published source.")
        if row.is_measured and texts["digest"] != digest_of(row.parts):
            raise DataError(
                f"{where}: the digest {texts['digest']} is not that of {', '.join(PARTS)} in the row, "
                f"{digest_of(row.parts)}. Fix: measure the row again."
            )
        rows.append(row)
    return rows


def write_rows(path: Path, rows: Sequence[Row]) -> None:
    """Replaces a file."""
    metrics = dict.fromkeys(name for row in rows for name in row.scores)
    columns = [f"{name}{end}" for name in metrics for end in ("", " low", " high")]
    with replaced_file(path) as temporary, temporary.open("w", **FORM) as file:
        writer = csv.writer(file)
        writer.writerow(["version", *TEXTS, *columns])
        for row in rows:
            numbers = [
                f"{x:.6g}" if x == x else "" for name in metrics for x in row.scores.get(name, [float("nan")] * 3)
            ]
            writer.writerow([VERSION, *(row.texts[name] for name in TEXTS), *numbers])


def add_rows(folder: Path, results: Mapping[str, CaseResult], facts: Mapping[str, Any]) -> list[Path]:
    """Adds the scored models to FOLDER/PROTOCOL.csv, in place of rows of the same backbone and digest."""
    folder.mkdir(parents=True, exist_ok=True)
    files: dict[Path, list[Row]] = {}
    for result in results.values():
        if not result.head or not result.training.get("digest") or not result.metrics:
            continue
        path, row = folder / f"{result.head}.csv", row_of(result, facts)
        if path not in files:
            files[path] = read_rows(path) if path.is_file() else []
        key = (row.texts["backbone"], row.texts["digest"])
        kept = [other for other in files[path] if (other.texts["backbone"], other.texts["digest"]) != key]
        files[path] = [*kept, row]
    for path, rows in files.items():
        write_rows(path, rows)
    return [*files]


def _scores(line: Mapping[str, str], where: str) -> dict[str, tuple[float, float, float]]:
    names = [name for name in line if f"{name} low" in line and line[name]]
    try:
        values = {n: [float(line[f"{n}{end}"] or "nan") for end in ("", " low", " high")] for n in names}
    except ValueError as error:
        raise DataError(f"{where}: expected numbers as scores; found: {one_line(error)}") from error
    return {name: (value, low, high) for name, (value, low, high) in values.items()}


def _heads(metrics: Mapping[str, float]) -> list[str]:
    return [*dict.fromkeys(name.partition("/")[0] for name in metrics)]


def _of(metrics: Mapping[str, float], head: str) -> dict[str, float]:
    return {name.partition("/")[2]: value for name, value in metrics.items() if name.startswith(f"{head}/")}
