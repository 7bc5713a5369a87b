"""Inference options of `densevit predict`, over those of the run."""

import importlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from densevit import config as configs
from densevit.cli import main
from densevit.config import InferenceSection
from densevit.config.values import with_value
from densevit.interfaces import Class
from densevit.model import DenseModel
from tests.model.small_models import Pixels, Segmenter

RUN_CONFIG = "backbone: {name: swin}\nheads: {a: {name: setr}}\ndata: {name: scenes}\ntrainer: {max_steps: 1}\n"


@pytest.fixture
def predictor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> DenseModel:
    """A model with a run folder and an image in the folder."""
    importlib.import_module("densevit.training.run.evaluation")  # with the real `load`, which is replaced below
    monkeypatch.chdir(tmp_path)
    Path("run").mkdir()
    Path("run/config.yaml").write_text(RUN_CONFIG + "inference: {window: 300, flip: true}\n")
    Image.fromarray(np.zeros((4, 6, 3), np.uint8)).save("a.png")
    config = configs.load("run")
    head = Segmenter((3,), (1,), [Class("sky", 1, (1, 2, 3)), *(Class(str(n), n, (0, 0, 0)) for n in (5, 6))])
    predictor = DenseModel(Pixels(), {"a": head}, sections=config)
    monkeypatch.setattr("densevit.inference.model_loading.load", lambda run, device, trust, runtime: predictor)
    monkeypatch.setattr("densevit.inference.model_loading.load_any", lambda run, trust, runtime: (predictor, False))
    return predictor


@pytest.fixture
def seen(predictor: DenseModel, monkeypatch: pytest.MonkeyPatch) -> list[InferenceSection]:
    """The inference options of each call of the model."""
    seen: list[Any] = []
    infer = DenseModel.infer

    def recorded(self: DenseModel, batch: Any) -> Any:
        seen.append(self.inference["a"])
        return infer(self, batch)

    monkeypatch.setattr(DenseModel, "infer", recorded)
    return seen


def test_predict_options_override_the_run_s(seen: list[InferenceSection]):
    assert main(["predict", "run", "a.png"]) == 0
    assert (
        main(["predict", "run", "a.png", "--window", "64x48", "--scales", "0.5,1", "--average", "probabilities"]) == 0
    )
    assert main(["predict", "run", "a.png", "--window", "null", "--no-flip"]) == 0
    assert main(["predict", "run", "--stride", "100", "a.png"]) == 0
    assert seen == [
        InferenceSection(window=300, flip=True),  # as the run has it
        InferenceSection(window=(64, 48), flip=True, scales=(0.5, 1.0), average="probabilities"),
        InferenceSection(),
        InferenceSection(window=300, stride=100, flip=True),
    ]


def test_a_window_implies_images_at_their_own_size(
    predictor: DenseModel, monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder
):
    sizes: list[Any] = []
    infer = DenseModel.infer

    def recorded(self: DenseModel, batch: Any) -> Any:
        sizes.append(batch["targets"][0]["size"])
        return infer(self, batch)

    monkeypatch.setattr(DenseModel, "infer", recorded)
    predictor.training_data = with_value(predictor.config, ("data", "image_size"), 3).data
    for options in ([], ["--image-size", "source"], ["--image-size", "12x24"], ["--stride", "2"], ["--window", "null"]):
        assert main(["predict", "run", "a.png", *options]) == 0
    assert sizes == [(2, 3), (4, 6), (12, 18), (2, 3), (2, 3)]
    assert main(["predict", "run", "a.png", "--window", "5"]) == 0
    assert sizes[-1] == (4, 6) and not recwarn.list
    with pytest.warns(UserWarning, match=r"^window 6x6: no image is larger \(the largest has 4x6 pixels\)"):
        assert main(["predict", "run", "a.png", "--window", "6", "--out", "same"]) == 0
    assert json.loads(Path("same/predict.json").read_text())["image_size"] == "source"
