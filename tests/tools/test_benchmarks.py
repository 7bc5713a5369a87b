"""tools/benchmarks: the parts for a GPU run on a CPU, and rounds alternate."""

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SLOW_PARTS = [pytest.param(part, marks=pytest.mark.slow) for part in ("correctness", "recipes", "steps", "syncs")]


@pytest.mark.integration
@pytest.mark.parametrize("part", ["operations", *SLOW_PARTS])
def test_all_cases_of_a_part_run_on_a_cpu(part: str, project: Path, tmp_path: Path) -> None:
    command = ["tools/benchmarks/gpu.py", "--smoke", "--minutes", "20", "--out", str(tmp_path), "--parts", part]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    ended = subprocess.run([sys.executable, *command], cwd=project, env=environment, capture_output=True, text=True)
    content = json.loads((tmp_path / "results.json").read_text())
    assert ended.returncode == 0, (ended.stdout, (tmp_path / "log.txt").read_text()[-3000:])
    assert [row["case"] for row in content["rows"]] == content["planned"][part]
    assert all(row["values"] or row["error"].startswith("left out") for row in content["rows"])
    table = (tmp_path / "table.md").read_text()
    assert all(f"| {row['case']} |" in table for row in content["rows"])


def test_rounds_alternate_and_ratios_are_of_rounds():
    interleaved = importlib.import_module("tools.benchmarks.interleaved")
    calls: list[str] = []
    times = interleaved.measure({name: lambda name=name: calls.append(name) for name in "ab"}, 2)
    assert calls == ["a", "b"] * 3 and {name: len(of) for name, of in times.items()} == {"a": 2, "b": 2}
    assert interleaved.ratio({"a": [2.0, 6.0, 12.0], "b": [1.0, 2.0, 2.0]}, "a", "b") == "3.00 (2.00 ... 6.00)"
