"""Test-time augmentation options of `densevit evaluate` and `densevit predict`."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from densevit import config as configs
from densevit.cli import main
from densevit.cli.evaluate import config_of
from densevit.config import InferenceSection
from densevit.interfaces import Class, Head

CONFIG = "backbone: {name: swin}\nheads: {a: {name: setr}}\ndata: {name: scenes}\ntrainer: {max_steps: 1}\n"


class Dense(Head):
    task, needs = "segmentation", ("semantic",)

    def maps(self, outputs, size):
        return outputs["logits"]

    def read_maps(self, maps):
        return {"semantic": maps.argmax(1)}


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A model that records the inference section of each call, with a run folder and an image in the folder."""
    monkeypatch.chdir(tmp_path)
    Path("run").mkdir()
    Path("run/config.yaml").write_text(CONFIG + "inference: {window: 300, flip: true}\n")
    Image.fromarray(np.zeros((4, 6, 3), np.uint8)).save("a.png")
    config = configs.load("run")
    heads = {"a": Dense((1,), (1,), [Class("sky", 1, (1, 2, 3))])}
    model = SimpleNamespace(config=config, inference=config.inference, heads=heads, looks=[])
    model.backbone, model.classes = SimpleNamespace(input_size=None), {"a": heads["a"].classes}
    model.to = lambda device: model

    def predict(images: list[np.ndarray], batch_size: int, inference: InferenceSection | None) -> list[Any]:
        model.looks.append(inference)
        return [{"semantic": torch.zeros(4, 6, dtype=torch.uint8)} for _ in images]

    model.predict = predict
    monkeypatch.setattr("densevit.weights.model_file.load", lambda run: model)
    return model


def test_predict_options_override_the_run_s(model: Any):
    assert main(["predict", "run", "a.png"]) == 0
    assert (
        main(["predict", "run", "a.png", "--window", "64x48", "--scales", "0.5,1", "--average", "probabilities"]) == 0
    )
    assert main(["predict", "run", "a.png", "--window", "null", "--no-flip"]) == 0
    assert main(["predict", "run", "--stride", "100", "a.png"]) == 0
    assert model.looks == [
        None,  # as in the run's config
        InferenceSection(window=(64, 48), flip=True, scales=(0.5, 1.0), average="probabilities"),
        InferenceSection(),
        InferenceSection(window=300, stride=100, flip=True),
    ]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--stride", "400"], "command line: inference.stride: 400 is more than inference.window, 300"),
        (["--window", "wide"], "--window: 'wide' is not a side (512), a height and width (512x768), or null"),
        (["--window", "1x2x3"], "command line: inference.window: give one side or [height, width]"),
        (["--scales", "1,big"], "--scales: '1,big' is not a list of numbers such as 0.75,1,1.25"),
        (["--scales", "0"], "command line: inference.scales.0 should be greater than 0"),
        (["--average", "votes"], "command line: inference.average should be 'logits' or 'probabilities', not 'votes'"),
    ],
)
def test_invalid_option_is_reported_before_any_work(
    model: Any, capsys: pytest.CaptureFixture[str], options: list[str], message: str
):
    assert main(["predict", "run", "a.png", *options, "--out", "found"]) == 2
    assert message in capsys.readouterr().err
    assert model.looks == [] and not Path("found").exists()


@pytest.mark.parametrize("command", [["evaluate", "run", "inference.window=64"], ["predict", "run", "a.png", "--flip"]])
def test_head_without_maps_is_reported_before_any_work(
    model: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, command: list[str]
):
    monkeypatch.setattr(Dense, "maps", Head.maps)
    assert main(command) == 2
    assert "heads.a (setr) makes none: it has no maps()" in capsys.readouterr().err


def test_evaluate_accepts_other_windows(model: Any):
    config = config_of(model, "run", ["inference.window=512", "inference.scales=[0.5, 1.0]", "inference.flip=false"])
    assert config.inference == InferenceSection(window=512, scales=(0.5, 1.0))
    Path("slide.yaml").write_text("window: [32, 64]\n")
    assert config_of(model, "run", ["inference=slide.yaml"]).inference == InferenceSection(window=(32, 64))
