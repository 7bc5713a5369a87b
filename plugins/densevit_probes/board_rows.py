"""The rows of a board: a folder per protocol, a JSON file per row, measured or published."""

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from densevit.atomic_io import replaced_file
from densevit.errors import DataError, check_format, one_line
from densevit.evaluation.metric_order import sign
from densevit_probes.board_facts import portable
from densevit_probes.hub_results import hub_benchmark, hub_results
from densevit_probes.probing import ProbeResult
from densevit_workbench.benchmarking.digest import PARTS, digest_of, hashed

FORMAT = 2  # `format_version` of rows
MEASURED = "measured"


@dataclass(frozen=True)
class Row:
    """A backbone's scores under a protocol.

    backbone: its name. scores: value, low and high by metric HEAD/METRIC; the value alone without an interval. source:
    "measured", or the publication; a published row has nothing else. main, error_metrics: names of metrics, see
    `ProbeResult`. training: "frozen" or "trained". config: the resolved config with the backbone's section. probes: the
    section of each. columns: options of `probe` for more scores. network: the hash of `board_facts.network_of`. parts:
    what the digest hashes. parameters: how many the model has.
    """

    backbone: str
    scores: Mapping[str, list[float]]
    main: list[str]
    error_metrics: list[str] = field(default_factory=list)
    source: str = MEASURED
    training: str = "frozen"
    config: Mapping[str, Any] = field(default_factory=dict)
    probes: Mapping[str, Any] = field(default_factory=dict)
    columns: Mapping[str, Any] = field(default_factory=dict)
    network: str = ""
    digest: str = ""
    parts: Mapping[str, str] = field(default_factory=dict)
    parameters: int | None = None
    machine: str = ""
    date: str = ""
    format_version: int = FORMAT

    @property
    def is_measured(self) -> bool:
        return self.source == MEASURED

    def sign(self, metric: str) -> int:
        """-1 if lower is better, else 1."""
        return sign(metric, self.error_metrics)


def row_of(result: ProbeResult) -> Row:
    """The row of a result with facts for a board. Absolute paths become file names: they are of one machine."""
    return Row(
        backbone=result.backbone,
        scores={
            metric: [float(f"{x:.6g}") for x in (value, *result.intervals.get(metric, ()))]
            for metric, value in result.metrics.items()
            if value is not None and metric.count("/") == 1
        },
        main=[metric for metric in result.main if result.metrics[metric] is not None],
        error_metrics=[*result.error_metrics],
        config=portable(result.config),
        probes=portable(result.probes),
        **result.facts,
    )


def read_rows(folder: Path) -> dict[Path, Row]:
    """Reads the rows of a protocol's folder by file. Raises DataError for another format, and for a wrong digest."""
    rows = {}
    for path in sorted(folder.glob("*.json")):
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
            check_format(values.get("format_version"), FORMAT, path, DataError)
            row = rows[path] = Row(**values)
            if row.is_measured and row.digest != digest_of(row.parts):
                raise ValueError(f"the digest {row.digest} is not that of {', '.join(PARTS)}, {digest_of(row.parts)}")
        except DataError:
            raise
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            raise DataError(
                f"{path}: expected a row of a board; found: {one_line(error)}. Fix: measure it again with densevit "
                "probe --board."
            ) from error
    return rows


def add_row(folder: Path, row: Row) -> Path:
    """Writes a row to the folder of its protocol, in place of the row of the same network and digest.

    Beside it, for the Hugging Face hub: the row's scores in `.eval_results`, and the protocol's `eval.yaml`, in which
    ORG stands for the owner of the benchmark.
    """
    name = re.sub(r"[^\w.-]+", "_", row.backbone)
    path = folder / f"{name}-{hashed([row.network, row.digest])[:8]}.json"
    scores, notes = {metric: row.scores[metric][0] for metric in row.main}, f"{row.training}, digest {row.digest}"
    title = f"densevit {folder.name}"
    texts = {
        path: json.dumps(asdict(row), indent=1, allow_nan=False) + "\n",
        folder / ".eval_results" / f"{path.stem}.yaml": hub_results(scores, f"ORG/{folder.name}", row.date, notes),
        folder / "eval.yaml": hub_benchmark(title, "Scores of frozen backbones.", row.main, "default", "validation"),
    }
    for file, text in texts.items():
        file.parent.mkdir(parents=True, exist_ok=True)
        with replaced_file(file) as temporary:
            temporary.write_text(text, encoding="utf-8")
    return path
