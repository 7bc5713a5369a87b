"""`densevit.load` and `densevit.save`; checkpoints of other projects are in tests/checkpoints."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import densevit
from densevit import config as configs
from densevit.cli import main
from densevit.config import InferenceSection
from densevit.errors import WeightsError
from densevit.interfaces import Class
from densevit.weights import model_file
from tests.built_models import build_model

CLASSES = {"segmentation": tuple(Class(name, n, (n, 0, 9)) for n, name in enumerate(("road", "sky", "tree")))}
BACKBONE = {"name": "swin", "variant": "nano", "window_size": 4}
SETR = {"name": "setr", "decoder": "naive", "width": 16}
DETR = {"name": "detr", "transformer": {"width": 16, "encoder_layers": 1, "decoder_layers": 1}}
VALUES: dict[str, Any] = {
    "backbone": BACKBONE,
    "heads": {"segmentation": SETR},
    "data": {"name": "scenes", "image_size": 64},
    "trainer": {"max_steps": 1},
    "inference": {"flip": True},
}
IMAGE = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run folder."""
    model_file.save(build_model(configs.from_mapping(VALUES), CLASSES), tmp_path / "model.safetensors")
    return tmp_path


def test_a_run_and_its_model_file_are_the_same(run: Path):
    expected = densevit.load(run)
    assert expected.classes == CLASSES and not expected.training
    assert expected.inference == {"segmentation": InferenceSection(flip=True)}
    for source in (str(run), run / "model.safetensors", str(run / "model.safetensors")):
        found = densevit.load(source)
        assert found.config == expected.config
        assert torch.equal(found.predict(IMAGE).semantic, expected.predict(IMAGE).semantic)


def test_a_saved_model_keeps_the_inference_options_of_each_head(tmp_path: Path):
    heads = {"a": SETR, "b": {**SETR, "inference": {"scales": [0.5]}}, "c": DETR}
    config = configs.from_mapping({**VALUES, "inference": {"window": 64}, "heads": heads})
    model = build_model(config, {**CLASSES, "detection": CLASSES["segmentation"]}).eval()
    predictor = model.with_config(config).with_inference({"window": 48, "flip": True})
    densevit.save(predictor, tmp_path / "saved.safetensors")
    assert densevit.load(tmp_path / "saved.safetensors").inference == {
        "a": InferenceSection(window=48, flip=True),
        "b": InferenceSection(window=48, flip=True, scales=(0.5,)),
        "c": InferenceSection(window=48),
    }
    densevit.save(model.with_config(config), tmp_path / "unchanged.safetensors")
    assert densevit.load(tmp_path / "unchanged.safetensors").config == config


@pytest.mark.integration
def test_a_model_without_a_config_is_evaluated_on_data_of_the_command_line(tmp_path: Path, capsys: Any):
    data = ["data.name=scenes", "data.image_size=32", "data.val_length=2", "data.num_workers=0"]
    values = {**VALUES, "data": {"name": "scenes"}}
    classes = densevit.build_data(configs.from_mapping(values)).classes["segmentation"]
    predictor = densevit.create_model(BACKBONE, {"seg": SETR}, {"seg": classes})
    path = str(tmp_path / "alone.safetensors")
    densevit.save(predictor, path)
    assert main(["evaluate", path, "data.batch_size=2"]) == 2
    assert f"{path}: these weights do not name the data to evaluate on. Fix: data=NAME" in (capsys.readouterr().err)
    assert main(["evaluate", path, *data, "trainer.accelerator=cpu", "--out", str(tmp_path / "found")]) == 0
    assert 0 <= json.loads((tmp_path / "found" / "metrics.json").read_text())["seg/mIoU"] <= 1


def test_files_that_are_no_models_are_errors_with_the_fix(run: Path):
    save_file(load_file(run / "model.safetensors"), run / "bare.safetensors")
    for name, facts in {
        "bare.safetensors": r"bare\.safetensors: a checkpoint of \d+ tensors without classes and config",
        "nowhere": "nowhere: no such file",
    }.items():
        with pytest.raises(WeightsError, match=facts):
            densevit.load(run / name)
