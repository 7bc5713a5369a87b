"""Heads trained apart on one frozen backbone, joined, exported and used as one file, by the commands of the page."""

import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

import densevit
from densevit.cli import main
from tests.small_models import CELLS, NAIVE

pytestmark = pytest.mark.integration

NAMES = ["ball", "box", "cylinder", "cone", "pyramid", "ring", "star", "chair", "floor", "ground", "wall", "sky"]
IMAGES = {"images": "{split}/images"}
RUNS: dict[str, dict[str, Any]] = {
    "things": {"heads": {"things": CELLS}, "data": {"name": "coco"}},
    "surfaces": {
        "heads": {"surfaces": NAIVE},
        "data": {"name": "label_maps", **IMAGES, "labels": "{split}/semantic", "classes": NAMES},
    },
    "distance": {
        "heads": {"distance": {"name": "dpt", "width": 16, "output": "sigmoid", "max_depth": 60}},
        "data": {"name": "depth", **IMAGES, "labels": "{split}/depth", "scale": 0.001},
    },
}
MAIN = {"things": "AP", "surfaces": "mIoU", "distance": "AbsRel"}


@pytest.fixture(scope="session")
def folder(made_once: Any) -> Path:
    """Three runs, joined.safetensors, joined.onnx and the rendered data set `made`. Read only."""

    def make(folder: Path) -> None:
        folder.mkdir()
        command("scenes", "--out", folder / "made", "--count", 6, "--size", 96)
        torch.manual_seed(0)
        backbone = {"name": "resnet", "depth": 18}
        densevit.save(densevit.create_model(backbone, {"any": NAIVE}, ["a"]), folder / "start.safetensors")
        shared = {"weights": str(folder / "start.safetensors"), "freeze": True, "cache": "fp32"}
        for name, config in RUNS.items():
            data = {"root": str(folder / "made"), "image_size": 64, "batch_size": 2, "transforms": "resize"}
            trainer = {"max_steps": 2, "accelerator": "cpu", "precision": "32"}
            values = {
                **config,
                "backbone": {**backbone, **shared},
                "data": {**config["data"], **data, "num_workers": 0},
            }
            file = folder / f"{name}.yaml"
            file.write_text(yaml.safe_dump({"seed": 1, **values, "trainer": trainer}))
            with pytest.MonkeyPatch.context() as patch:
                patch.setenv("DENSEVIT_CACHE", str(folder / "cache"))
                command("train", file, "--run-dir", folder / "runs" / name)
        joined = folder / "joined.safetensors"
        command("join", *(folder / "runs" / name for name in RUNS), "--out", joined)
        command("export", joined, "--resize", "--postprocess", "--canvas", "64x64", "--out", folder / "joined.onnx")

    return made_once("one_backbone", make)


def command(*words: object) -> None:
    assert main([*map(str, words), "--quiet"]) == 0


def test_each_head_is_evaluated_on_its_own_data(folder: Path, tmp_path: Path, run: Any):
    """All heads on all data of their training; one head on data with its labels."""
    metrics = []
    for name in ("joined.safetensors", "joined.onnx"):
        run("evaluate", folder / name, "--out", tmp_path / name)
        metrics.append(json.loads((tmp_path / name / "metrics.json").read_text()))
    expected, of_file = metrics
    assert of_file.keys() == expected.keys() >= {f"{head}/{metric}" for head, metric in MAIN.items()}
    for head, metric in MAIN.items():
        assert of_file[f"{head}/{metric}"] == pytest.approx(expected[f"{head}/{metric}"], rel=1e-2, abs=1e-2)
    for model in ("joined.safetensors", "joined.onnx"):
        text = run("evaluate", folder / model, "data=coco", f"data.root={folder / 'made'}", "data.image_size=64")
        assert "not evaluated: surfaces, distance" in text and "things: classes" in text


def test_point_clouds_of_the_file_use_the_focal_length(folder: Path, tmp_path: Path, run: Any):
    clouds = {}
    for name in ("joined.safetensors", "joined.onnx"):
        run("predict", folder / name, folder / "made/val/images", "--focal", 80, "--out", tmp_path / name)
        first = sorted((tmp_path / name / "distance/clouds").iterdir())[0].read_bytes()
        fields = [("position", "<f4", 3), ("color", "u1", 3)]
        clouds[name] = np.frombuffer(first.partition(b"end_header\n")[2], fields)["position"]
    model, file = clouds.values()
    assert model.shape == (96 * 96, 3)
    np.testing.assert_allclose(file, model, rtol=1e-2, atol=1e-2)
    np.testing.assert_allclose(file[0, :2] / file[0, 2], -47.5 / 80, atol=1e-2)  # the first pixel


def test_the_serving_program_answers_with_all_heads(folder: Path, project: Path):
    spec = importlib.util.spec_from_file_location("serving", project / "examples" / "serving.py")
    assert spec is not None and spec.loader is not None
    serving = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(serving)
    image = next((folder / "made/val/images").iterdir()).read_bytes()
    (result,) = serving.Batches(densevit.load(folder / "joined.onnx")).results([image], 0.0)
    content = serving.answer(result)
    assert content.keys() == {"height", "width", "thresholds", *RUNS} and [*content["thresholds"]] == ["things"]
    assert content["things"] and sum(content["surfaces"].values()) == pytest.approx(1)
    assert len(content["distance"]["depth"]) == 2
