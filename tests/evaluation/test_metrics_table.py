"""Metrics as a file, exact, and as tables on a terminal of 80 columns."""

import json
import math
from pathlib import Path

from rich.console import Console

from densevit.evaluation.metrics_file import read, write
from densevit.evaluation.metrics_table import metrics_table


def shown(metrics: dict[str, float]) -> list[list[str]]:
    console = Console(width=80, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(metrics_table(metrics))
    return [line.split() for line in console.export_text().splitlines() if line.strip()]


def test_metrics_of_several_heads_share_a_table_and_other_classes_have_a_separate_one():
    metrics = {
        "boxes/AP": 0.0,
        "boxes/AP50": 0.01,
        "boxes/AP/cat": 0.5,
        "boxes/AP/[red]dog[/]": 0.5,
        "maps/mIoU": 0.5,
        "maps/IoU/sky/blue": 0.5,
        "maps/IoU/road": 0.25,
        "depth/AbsRel": 0.12345,
        "depth/RMSE": math.nan,
    }
    assert shown(metrics) == [
        ["boxes", "AP", "0.0000", "AP50", "0.0100"],
        ["maps", "mIoU", "0.5000"],
        ["depth", "AbsRel", "0.1235", "RMSE", "–"],
        ["boxes:", "AP", "of", "each", "class"],
        ["cat", "0.5000", "[red]dog[/]", "0.5000"],
        ["maps:", "IoU", "of", "each", "class"],
        ["sky/blue", "0.5000", "road", "0.2500"],
    ]


def test_metrics_round_trip_exactly_and_nan_is_null(tmp_path: Path):
    metrics = {"detection/AP": 0.1 + 0.2, "detection/APs": math.nan, "depth/AbsRel": 1e-17}
    write(metrics, tmp_path / "metrics.json")
    assert json.loads((tmp_path / "metrics.json").read_text()) == {**metrics, "detection/APs": None}
    found = read(tmp_path / "metrics.json")
    assert list(found) == list(metrics) and math.isnan(found.pop("detection/APs"))
    assert found == {"detection/AP": 0.1 + 0.2, "depth/AbsRel": 1e-17}
