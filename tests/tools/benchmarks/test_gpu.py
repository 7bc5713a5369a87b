"""tools/benchmarks/gpu.py: its parts run on a CPU."""

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
    command = [sys.executable, "tools/benchmarks/gpu.py", "--smoke", "--minutes", "20", "--out", str(tmp_path)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    ended = subprocess.run(
        [*command, "--parts", part], cwd=project, env=environment, capture_output=True, text=True, check=False
    )
    content = json.loads((tmp_path / "results.json").read_text())
    assert ended.returncode == 0, (ended.stdout, (tmp_path / "log.txt").read_text()[-3000:])
    assert [row["case"] for row in content["rows"]] == content["planned"][part]
    assert all(row["values"] or row["error"].startswith("left out") for row in content["rows"])
    table = (tmp_path / "table.md").read_text()
    assert all(f"| {row['case']} |" in table for row in content["rows"])
    assert {path.name for path in tmp_path.iterdir()} == {"results.json", "table.md", "log.txt"}
