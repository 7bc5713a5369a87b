"""`densevit export --evaluate`, `evaluate` and `benchmark` of exported files, on four rendered scenes."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from densevit import config as configs
from densevit.cli import main
from densevit.data.data_builder import build_data
from densevit.weights import model_file
from tests.built_models import build_model
from tests.small_models import CELLS, NAIVE

pytestmark = pytest.mark.integration

CONFIG = {
    "seed": 0,
    "backbone": {"name": "resnet", "depth": 18},
    "heads": {"things": CELLS, "surfaces": NAIVE},
    "data": {"name": "scenes", "image_size": 96, "train_length": 4, "val_length": 4, "num_workers": 0},
    "trainer": {"max_steps": 1, "accelerator": "cpu", "precision": "32"},
}


@pytest.fixture(scope="session")
def folder(made_once: Any) -> Path:
    """A model, model.safetensors, and its exported file with the evaluation on two images, model.onnx. Read only."""

    def make(folder: Path) -> None:
        folder.mkdir()
        torch.manual_seed(0)
        config = configs.from_mapping(CONFIG, "test")
        model = build_model(config, build_data(config).train).eval()
        torch.nn.init.normal_(model.heads["things"].cells.label_head.weight, std=1.0)
        model_file.save(model, folder / "model.safetensors")
        given = ["export", str(folder / "model.safetensors"), "--evaluate", "data.val_length=2", "--quiet"]
        assert main(given) == 0

    return made_once("exported_file", make)


@pytest.fixture
def file(folder: Path) -> Path:
    return folder / "model.onnx"


def json_of(run: Any, *words: Any) -> dict[str, Any]:
    return json.loads(run(*words, "--json"))


def metrics_close(found: dict[str, Any], expected: dict[str, Any]) -> None:
    assert found.keys() == expected.keys() and "things/AP" in found and "surfaces/mIoU" in found
    for name, value in expected.items():
        assert (found[name] is None) == (value is None), name
        assert value is None or abs(found[name] - value) < 1e-3, name


def test_a_file_is_evaluated_like_its_model(file, folder, tmp_path, run):
    expected = json_of(run, "evaluate", folder / "model.safetensors", "--out", tmp_path / "of-model")
    found = json_of(run, "evaluate", file, "--out", tmp_path / "of-file")
    metrics_close(found["metrics"], expected["metrics"])
    assert expected["metrics"]["surfaces/mIoU"] > 0
    boxes = [json.loads((tmp_path / out / "detections.json").read_text()) for out in ("of-model", "of-file")]
    assert len(boxes[0]) == len(boxes[1]) > 10
    np.testing.assert_allclose(*([box["score"] for box in own] for own in boxes), atol=1e-4)
    assert {*found["tables"]} == {*expected["tables"]}


def test_a_file_names_no_path_of_the_sources(file, project):
    assert str(project).encode() not in file.read_bytes()


def test_the_file_has_the_metrics_of_both_on_the_data_of_the_overrides(folder, tmp_path, run):
    """The evaluations are saved beside copies of both."""
    file, model = (shutil.copy(folder / name, tmp_path) for name in ("model.onnx", "model.safetensors"))
    recorded = json_of(run, "evaluate", file, "data.val_length=2")["when_exported"]
    expected = json_of(run, "evaluate", model, "data.val_length=2")["metrics"]
    metrics_close({name: recorded["model"][name] for name in expected}, expected)
    metrics_close(recorded["file"], recorded["model"])
    run("export", model, "--out", tmp_path / "no.onnx", "--evaluate", "backbone.depth=34", code=2)
    assert not (tmp_path / "no.onnx").exists()
