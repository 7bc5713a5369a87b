"""tools/benchmarks/gpu.py: its parts run on a CPU; a case that fails leaves the others; missing packages are named."""

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest


@pytest.fixture
def gpu(project: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(project / "tools" / "benchmarks")
    return importlib.import_module("gpu")


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


def test_a_case_that_fails_is_noted_and_the_next_ones_run(gpu: ModuleType, tmp_path: Path, monkeypatch) -> None:
    from gpu_parts import results

    def fails(setting: Any) -> dict[str, Any]:
        raise ValueError("a | first line\nsecond line")

    def is_optional(setting: Any) -> dict[str, Any]:
        results.need("no_such_package")
        raise AssertionError

    listed = [("first", fails), ("second", is_optional), ("third", lambda setting: {"ms": 12.34567, "output": "text"})]
    monkeypatch.setitem(sys.modules, "gpu_parts.own", SimpleNamespace(cases=lambda setting: listed))
    args = gpu.argparse.Namespace(part="own", smoke=True, seconds=60.0)
    written = results.Results(tmp_path)
    assert gpu.run_cases(args, written) == 0
    rows = results.Results(tmp_path).rows  # as read from the file
    assert [row["error"] for row in rows] == [
        "ValueError: a | first line", "left out: no_such_package is not installed", "",
    ]  # fmt: skip
    lines = (tmp_path / "table.md").read_text().splitlines()
    assert any(line.startswith("| first | ValueError: a / first line |") for line in lines)
    assert any(line.startswith("| third | ms 12.35 |") for line in lines)
    assert lines[-3:] == ["```text", "text", "```"]
    args.seconds = -1.0
    (tmp_path / "late").mkdir()
    late = results.Results(tmp_path / "late")
    gpu.run_cases(args, late)
    assert late.left_out("own") == "first, second, third"
