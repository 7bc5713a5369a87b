"""Test-time augmentation options of `densevit evaluate` and `densevit predict`."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from densevit import config as configs
from densevit.cli import main
from densevit.cli.evaluate import config_of
from densevit.config import InferenceSection
from densevit.inference.loading import LoadedModel
from densevit.inference.predictor import Predictor
from densevit.interfaces import Class
from densevit.model import DenseModel, Inference
from tests.model.small_models import Boxes, Pixels, Segmenter

CONFIG = "backbone: {name: swin}\nheads: {a: {name: setr}}\ndata: {name: scenes}\ntrainer: {max_steps: 1}\n"


@pytest.fixture
def predictor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Predictor:
    """A model with a run folder and an image in the folder."""
    monkeypatch.chdir(tmp_path)
    Path("run").mkdir()
    Path("run/config.yaml").write_text(CONFIG + "inference: {window: 300, flip: true}\n")
    Image.fromarray(np.zeros((4, 6, 3), np.uint8)).save("a.png")
    config = configs.load("run")
    head = Segmenter((3,), (1,), [Class("sky", 1, (1, 2, 3)), *(Class(str(n), n, (0, 0, 0)) for n in (5, 6))])
    predictor = Predictor(DenseModel(Pixels(), {"a": head}, architecture=config.architecture), config)
    monkeypatch.setattr("densevit.inference.loading.load", lambda run, device, trust, runtime: predictor)
    loaded = LoadedModel(predictor.model, config, foreign=False)
    monkeypatch.setattr("densevit.inference.loading.load_any", lambda run, trust, runtime: loaded)
    return predictor


@pytest.fixture
def seen(predictor: Predictor, monkeypatch: pytest.MonkeyPatch) -> list[Inference]:
    """The inference options of each call of the model."""
    seen: list[Any] = []
    infer = DenseModel.infer

    def recorded(self: DenseModel, batch: Any, inference: dict[str, Inference]) -> Any:
        seen.append(inference["a"])
        return infer(self, batch)

    monkeypatch.setattr(DenseModel, "infer", recorded)
    return seen


def test_predict_options_override_the_run_s(seen: list[Inference]):
    assert main(["predict", "run", "a.png"]) == 0
    assert (
        main(["predict", "run", "a.png", "--window", "64x48", "--scales", "0.5,1", "--average", "probabilities"]) == 0
    )
    assert main(["predict", "run", "a.png", "--window", "null", "--no-flip"]) == 0
    assert main(["predict", "run", "--stride", "100", "a.png"]) == 0
    assert seen == [
        Inference(window=300, flip=True),  # as the run has it
        Inference(window=(64, 48), flip=True, scales=(0.5, 1.0), average="probabilities"),
        Inference(),
        Inference(window=300, stride=100, flip=True),
    ]


def test_a_window_implies_images_at_their_own_size(
    predictor: Predictor, monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder
):
    sizes: list[Any] = []
    infer = DenseModel.infer

    def recorded(self: DenseModel, batch: Any, inference: dict[str, Inference]) -> Any:
        sizes.append(batch["targets"][0]["size"])
        return infer(self, batch)

    monkeypatch.setattr(DenseModel, "infer", recorded)
    predictor.config.data.image_size = 3
    for options in ([], ["--image-size", "source"], ["--image-size", "12x24"], ["--stride", "2"], ["--window", "null"]):
        assert main(["predict", "run", "a.png", *options]) == 0
    assert sizes == [(2, 3), (4, 6), (12, 18), (2, 3), (2, 3)]
    assert main(["predict", "run", "a.png", "--window", "5"]) == 0
    assert sizes[-1] == (4, 6) and not recwarn.list
    with pytest.warns(UserWarning, match=r"^window 6x6: no image is larger \(the largest has 4x6 pixels\)"):
        assert main(["predict", "run", "a.png", "--window", "6", "--out", "same"]) == 0
    assert json.loads(Path("same/predict.json").read_text())["image_size"] == "source"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--image-size", "big"], "--image-size: 'big'"),
        (["--stride", "400"], "command line: inference.stride: 400"),
        (["--window", "wide"], "--window: 'wide'"),
        (["--scales", "1,big"], "--scales: '1,big'"),
    ],
)
def test_invalid_option_is_reported_before_any_work(
    seen: list[Inference], capsys: pytest.CaptureFixture[str], options: list[str], message: str
):
    assert main(["predict", "run", "a.png", *options, "--out", "found"]) == 2
    assert message in capsys.readouterr().err
    assert seen == [] and not Path("found").exists()


def test_head_without_maps_is_reported_before_any_work(predictor: Predictor, capsys: pytest.CaptureFixture[str]):
    predictor.model.heads["a"].__class__ = Boxes
    for command in (["evaluate", "run", "inference.window=64"], ["predict", "run", "a.png", "--flip"]):
        assert main(command) == 2
        assert "heads.a (setr) makes none" in capsys.readouterr().err


def test_evaluate_accepts_other_windows(predictor: Predictor):
    loaded = LoadedModel(predictor.model, predictor.config, foreign=False)
    config = config_of(loaded, "run", ["inference.window=512", "inference.scales=[0.5, 1.0]", "inference.flip=false"])
    assert config.inference == InferenceSection(window=512, scales=(0.5, 1.0))
    Path("slide.yaml").write_text("window: [32, 64]\n")
    assert config_of(loaded, "run", ["inference=slide.yaml"]).inference == InferenceSection(window=(32, 64))
    config = config_of(loaded, "run", ["heads.a.inference.window=64"])
    assert config.inference_by_head == {"a": Inference(window=64)} and config.inference.window == 300
