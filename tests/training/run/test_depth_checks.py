"""Consistency of depth head, data and evaluation, checked before the run folder is created."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from densevit import config as configs
from densevit.cli import main
from densevit.data.build import build_data
from densevit.errors import ConfigError
from densevit.training.loop.evaluators import build_evaluators
from densevit.training.run.config_checks import check_model
from densevit.weights.building import build_model
from tests.training.runs import train

CONFIG = """
backbone: {name: swin, variant: nano, window_size: 4}
heads: {near: {name: dpt, width: 8}}
data: {name: scenes, image_size: 32, batch_size: 2, num_workers: 0, train_length: 2, val_length: 2}
optim: {lr: 1e-3}
trainer: {max_steps: 1, precision: "32", accelerator: cpu}
"""
METRIC = "heads.near.output=sigmoid"
SCENES = "{name: scenes, train_length: 2, val_length: 2, image_size: 32, provides: [semantic]}"


@pytest.fixture
def config(tmp_path: Path) -> Any:
    """`config(*overrides)`."""
    path = tmp_path / "near.yaml"
    path.write_text(CONFIG)
    return lambda *overrides: configs.load(path, overrides)


@pytest.fixture
def disparities(tmp_path: Path) -> Path:
    """Images with uncalibrated disparity."""
    rng = np.random.default_rng(0)
    for split in ("train", "val"):
        for kind, size in (("images", (32, 32, 3)), ("labels", (32, 32))):
            folder = tmp_path / "stereo" / kind / split
            folder.mkdir(parents=True)
            Image.fromarray(rng.integers(1, 255, size, np.uint8)).save(folder / "a.png")
    return tmp_path / "stereo"


def relative_data(root: Path) -> list[str]:
    return [f"data={{name: depth, root: {root}, kind: disparity, metric: false, image_size: 32, batch_size: 1}}"]


def mixed(root: Path, kept: str = "") -> list[str]:
    own = f"{{name: depth, root: {root}, kind: disparity, metric: false{kept}}}"
    return [f"data={{name: mix, batch_size: 1, image_size: 32, sets: {{scenes: {SCENES}, stereo: {own}}}}}"]


def test_metric_head_on_unitless_depth_raises_at_startup(config, disparities: Path, tmp_path: Path) -> None:
    for output in ("sigmoid", "softplus", "bins"):
        with pytest.raises(ConfigError) as error:
            train(config(*relative_data(disparities), f"heads.near.output={output}"), tmp_path / "run")
        message = str(error.value)
        assert message.startswith("heads.near (dpt) learns metres, but the depth of the data set has no unit")
        assert "The data set is 'depth' (data.metric: false)" in message and "output: relative" in message
        assert "calibrate the data" in message and "data.stereo" in message
    assert not (tmp_path / "run").exists()


def test_metric_head_on_a_mix_with_unitless_depth_raises(config, disparities: Path) -> None:
    mix = config(*mixed(disparities), METRIC)
    data = build_data(mix)
    with pytest.raises(ConfigError, match=r"has no unit .*The data set is 'mix' \(data\.sets\.stereo\.metric: false\)"):
        check_model(mix, data, build_model(mix, data.classes))


def test_relative_head_trains_on_unitless_depth_with_aligned_metrics(config, disparities: Path, tmp_path: Path) -> None:
    run = train(config(*relative_data(disparities)), tmp_path / "run")
    metrics = json.loads((run / "metrics.json").read_text())
    assert "near/AbsRel_aligned_disparity" in metrics and "near/AbsRel" not in metrics
    assert all(value is not None for value in metrics.values())


@pytest.mark.integration
def test_relative_head_without_alignment_raises(config, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    message = (
        r"heads\.near\.evaluation\.align is none, but DptDepth predicts inverse depth of unknown scale and shift.*"
        "Choose scale_shift_disparity or median; without align, the first is used"
    )
    with pytest.raises(ConfigError, match=message):
        train(config("heads.near.evaluation.align=none"), tmp_path / "none")
    run = train(config(), tmp_path / "run")
    capsys.readouterr()
    assert main(["evaluate", str(run), "heads.near.evaluation.align=none"]) == 2
    assert "heads.near.evaluation.align is none" in " ".join(capsys.readouterr().err.split())
    assert main(["evaluate", str(run), "heads.near.evaluation.align=median", "--out", str(tmp_path / "out")]) == 0
    assert "near/AbsRel_aligned_median" in json.loads((tmp_path / "out" / "metrics.json").read_text())


def test_metric_head_on_unitless_depth_requires_alignment(config, disparities: Path) -> None:
    section = config(*relative_data(disparities), METRIC)
    data = build_data(section)
    model = build_model(section, data.classes)
    with pytest.raises(ConfigError, match=r"heads\.near\.evaluation\.align is none, but the depth of the data has no"):
        build_evaluators(model, section, data.val)
    aligned = config(*relative_data(disparities), METRIC, "heads.near.evaluation.align=median")
    assert build_evaluators(model, aligned, data.val)["near"].main == "AbsRel_aligned_median"


def test_metric_heads_have_plain_metric_names(config) -> None:
    section = config(METRIC)
    data = build_data(section)
    model = build_model(section, data.classes)
    check_model(section, data, model)
    assert build_evaluators(model, section, data.val)["near"].main == "AbsRel"
