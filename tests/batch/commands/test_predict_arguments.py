"""Inference options of `densevit predict`, over those of the run."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from densevit import config as configs
from densevit.config import InferenceSection
from densevit.config.values import with_value
from densevit.interfaces import Class
from densevit.model import DenseModel
from tests.cli.stand_in import read
from tests.model.small_models import Pixels, Segmenter

RUN_CONFIG = "backbone: {name: swin}\nheads: {a: {name: setr}}\ndata: {name: scenes}\ntrainer: {max_steps: 1}\n"


@pytest.fixture
def predictor(cwd: Path, load_as: Callable[[Any], Any]) -> DenseModel:
    """A model, beside a run folder and an image."""
    Path("run").mkdir()
    Path("run/config.yaml").write_text(RUN_CONFIG + "inference: {window: 300, flip: true}\n")
    Image.fromarray(np.zeros((4, 6, 3), np.uint8)).save("a.png")
    config = configs.load("run")
    head = Segmenter((3,), (1,), [Class("sky", 1, (1, 2, 3)), *(Class(str(n), n, (0, 0, 0)) for n in (5, 6))])
    predictor: DenseModel = load_as(DenseModel(Pixels(), {"a": head}, sections=config))
    return predictor


@pytest.fixture
def calls(predictor: DenseModel, monkeypatch: pytest.MonkeyPatch) -> list[tuple[InferenceSection, Any]]:
    """Of each call of the model the inference options, and the size of the first image."""
    calls: list[tuple[InferenceSection, Any]] = []
    infer = DenseModel.infer

    def recorded(self: DenseModel, batch: Any) -> Any:
        calls.append((self.inference["a"], batch["targets"][0]["size"]))
        return infer(self, batch)

    monkeypatch.setattr(DenseModel, "infer", recorded)
    return calls


def test_predict_options_override_the_run_s(calls, run):
    for options in ("", "--window 64x48 --scales 0.5,1 --average probabilities", "--window null --no-flip"):
        run("predict", "run", "a.png", *options.split())
    run("predict", "run", "--stride", "100", "a.png")
    assert [section for section, _ in calls] == [
        InferenceSection(window=300, flip=True),  # as the run has it
        InferenceSection(window=(64, 48), flip=True, scales=(0.5, 1.0), average="probabilities"),
        InferenceSection(),
        InferenceSection(window=300, stride=100, flip=True),
    ]


def test_a_window_implies_images_at_their_own_size(predictor, calls, run, recwarn):
    predictor.training_data = with_value(predictor.config, ("data", "image_size"), 3).data
    for options in ("", "--image-size source", "--image-size 12x24", "--stride 2", "--window null", "--window 5"):
        run("predict", "run", "a.png", *options.split())
    assert [size for _, size in calls] == [(2, 3), (4, 6), (12, 18), (2, 3), (2, 3), (4, 6)] and not recwarn.list
    with pytest.warns(UserWarning, match=r"^window 6x6: no image is larger \(the largest has 4x6 pixels\)"):
        run("predict", "run", "a.png", "--window", "6", "--out", "same")
    assert read("same/predict.json")["image_size"] == "source"
