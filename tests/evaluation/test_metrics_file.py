"""Metrics as a file: exact, and refused if it is damaged."""

import json
import math
from pathlib import Path

from densevit.evaluation.metrics_file import by_head, read, write


def test_metrics_round_trip_exactly_and_nan_is_null(tmp_path: Path):
    metrics = {"detection/AP": 0.1 + 0.2, "detection/APs": math.nan, "depth/AbsRel": 1e-17}
    write(metrics, tmp_path / "metrics.json")
    assert json.loads((tmp_path / "metrics.json").read_text()) == {**metrics, "detection/APs": None}
    found = read(tmp_path / "metrics.json")
    assert list(found) == list(metrics) and math.isnan(found.pop("detection/APs"))
    assert found == {"detection/AP": 0.1 + 0.2, "depth/AbsRel": 1e-17}


def test_metrics_by_head():
    metrics = {"a/AP": 0.5, "a/AP/cat": 0.25, "b/mIoU": 0.75, "epoch": 3.0}
    assert by_head(metrics) == {"a": {"AP": 0.5, "AP/cat": 0.25}, "b": {"mIoU": 0.75}, "": {"epoch": 3.0}}
