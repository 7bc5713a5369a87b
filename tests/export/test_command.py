"""`densevit export`, and `examples/onnx_predict.py`, which needs onnxruntime, numpy and pillow only."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import densevit
from densevit import config as configs
from densevit.data.data_builder import build_data
from densevit.evaluation.recorded import RecordedEvaluation
from densevit.model import DenseModel
from densevit_export import exporting
from densevit_export.file_comparison import example_images
from densevit_export.quantization import Quantization
from tests.small_models import CELLS, small_predictor


def found_by_script(file: Path, image: Path, project: Path) -> list[tuple[str, float, list[float]]]:
    """The name, score and box of each object that the script prints."""
    script = project / "examples" / "onnx_predict.py"
    imported = set(re.findall(r"^(?:import|from) (\w+)", script.read_text(), re.MULTILINE))
    assert imported == {"json", "sys", "typing", "numpy", "onnxruntime", "PIL"}
    done = subprocess.run([sys.executable, str(script), str(file), str(image)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    lines = [re.fullmatch(r"(cat|dog) (0\.\d+) (\[[\d., -]+\])", line) for line in done.stdout.splitlines()]
    return [(line[1], float(line[2]), json.loads(line[3])) for line in lines if line]


@pytest.mark.integration
def test_the_example_gives_the_objects_of_predict(tmp_path: Path, project: Path):
    """Resized to the evaluation size by the script, from the model's score threshold, and without the duplicates that
    NMS removes."""
    predictor = small_predictor({**CELLS, "nms": 0.4, "max_predictions": 9}, ["cat", "dog"])
    predictor.score_thresholds = {"x": 0.86}
    torch.nn.init.constant_(predictor.heads["x"].cells.label_head.bias, 0.1)  # about half of the scores above a half
    exported = densevit.export(predictor, tmp_path / "model.onnx")
    image = example_images((150, 211), 1, 0)[0].transpose(1, 2, 0)
    Image.fromarray(image).save(tmp_path / "image.png")
    result = predictor.predict(image)
    found = found_by_script(exported.path, tmp_path / "image.png", project)
    assert [name for name, _, _ in found] == list(result.names) and 0 < len(found) < len(
        predictor.predict(image, threshold=0.5)["boxes"]
    ) == 9
    np.testing.assert_allclose([score for _, score, _ in found], result.scores, atol=2e-3)
    np.testing.assert_allclose([box for _, _, box in found], result.boxes, atol=1)


RUN: dict[str, Any] = {
    "backbone": {"name": "resnet", "depth": 18},
    "heads": {"x": {"name": "dpt", "width": 16, "output": "sigmoid"}},
    "data": {"name": "scenes", "image_size": 64},
    "trainer": {"max_epochs": 1},
}
SCENES = ["data.val_length=2", "data.train_length=2"]


def saved_on_scenes(folder: Path) -> Path:
    model = densevit.create_model(RUN["backbone"], RUN["heads"])
    model.with_config(configs.from_mapping(RUN, "test")).save(folder / "model.safetensors")
    return folder / "model.safetensors"


@pytest.mark.integration
def test_int8_is_calibrated_and_evaluated_on_the_data_of_the_run(tmp_path, monkeypatch, run):
    """The export itself, which tests/export tests, is replaced."""

    given: dict[str, Any] = {}

    def export(predictor: DenseModel, path: Path, **options: Any) -> exporting.Exported:
        given.update(options)
        recorded = RecordedEvaluation(options["evaluate"](predictor), {"x/AbsRel": 0.25}, options["data"])
        quantized = Quantization(2, 20.0, 10.0, 400, 100, ("a warning",))
        return exporting.Exported(path, {"depth": 1e-6}, 1e-4, [(64, 64)], 30.0, 10.0, recorded, quantized)

    monkeypatch.setattr(exporting, "export", export)
    report = json.loads(run("export", saved_on_scenes(tmp_path), "--int8", *SCENES, "--json"))
    train = build_data(configs.from_mapping(RUN, "test", SCENES)).train
    images = [*given["int8"]]
    assert all(torch.equal(image, train[i]["image"]) for i, image in enumerate(images)) and len(images) == 2
    assert given["main_metrics"] == {"x/AbsRel": True} and given["data"] == "scenes-val"
    assert report["int8"]["warnings"] == ["a warning"] and report["evaluation"]["model"]["x/AbsRel"] > 0


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["model.onnx"], "model.onnx: is an exported file. Fix: name the model that it was exported from."),
        (["model.pth", "--bf16", "--out", "x.onnx"], "Fix: fp16 (--half), or --out NAME.pt2."),
        (["model.pth", "--canvas", "320"], "'320' is not a height and width"),
    ],
)
def test_what_cannot_be_written_is_an_error_before_the_model_is_read(flags, message, cwd, run):
    Path("model.onnx").write_text("of another program")
    assert message in run("export", *flags, code=2)
