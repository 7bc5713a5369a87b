"""Models that are exported files: with files made of the model itself, and opening of real files."""

import json
import sys
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import densevit
from densevit.data.transforms.default import DefaultTransforms
from densevit.errors import ConfigError, DensevitError, WeightsError
from densevit.interfaces import Head
from densevit.model import DenseModel
from densevit.weights import model_file
from densevit_export import engine, header
from densevit_export.file_comparison import example_images
from densevit_export.graph import ExportedGraph
from densevit_export.runtimes import ExportedFile, open_file
from tests.registry.test_classes_in_files import MODEL, write
from tests.registry.test_classes_in_files import sentinel as sentinel  # a fixture

MODULE = "tests.export.test_engine"
DETR = {"name": "detr", "num_queries": 5, "transformer": {"width": 16, "encoder_layers": 1, "decoder_layers": 1}}
SETR = {"name": "setr", "decoder": "naive", "width": 16}


class Brightness(Head):
    """A third party's head: one number for each class and image, the scores of a box around the image."""

    task, required_targets = "detection", ("boxes", "labels")

    def __init__(self, channels: Any, strides: Any, classes: Any, least: float = 0.0) -> None:
        super().__init__(channels, strides, classes)
        self.layer, self.least = nn.Linear(channels[-1], len(classes)), least

    def forward(self, features: Any, padding_mask: Any, targets: Any = None) -> dict[str, Any]:
        return {"scores": self.layer(features[-1].mean((2, 3))).sigmoid()}

    def predict(self, outputs: Any, targets: Any) -> Any:
        found = []
        for scores, target in zip(outputs["scores"], targets, strict=True):
            height, width = target["original_size"]
            labels = (scores >= self.least).nonzero()[:, 0]
            boxes = torch.tensor([[0.0, 0.0, width, height]]).expand(len(labels), 4)
            found.append({"boxes": boxes, "scores": scores[labels], "labels": labels})
        return found

    def exported(self, outputs: Any, size: Any, original_size: Any = None) -> dict[str, Any]:
        return {"scores": outputs["scores"]}

    def predict_exported(self, exported: Any, targets: Any) -> Any:
        return self.predict(exported, targets)


def created(heads: Mapping[str, Any], size: int | None = 64) -> DenseModel:
    predictor = densevit.create_model({"name": "resnet", "depth": 18}, heads, {name: ["cat", "dog"] for name in heads})
    return predictor if size is None else predictor.with_resize(DefaultTransforms(size))


def header_of(predictor: DenseModel, resize: bool = False) -> dict[str, Any]:
    return json.loads(json.dumps(header.header_of(predictor, None, resize, None)))


def file_of(predictor: DenseModel, header: Mapping[str, Any] | None = None, **fixed: Any) -> ExportedFile:
    """A file that is run by the graph of the model."""
    graph = ExportedGraph(predictor).eval()

    def run(images: np.ndarray) -> dict[str, np.ndarray]:
        with torch.no_grad():
            return {key: value.numpy() for key, value in graph(torch.from_numpy(images)).items()}

    return ExportedFile(Path("model.onnx"), header or header_of(predictor), run, "onnxruntime", **fixed)


def image(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.ascontiguousarray(example_images((height, width), 1, seed)[0].transpose(1, 2, 0))


def assert_same(found: Any, expected: Any) -> None:
    for name, want in expected.heads.items():
        assert found.heads[name].keys() == want.keys()
        for key, value in want.items():
            own = found.heads[name][key]
            if value.dtype.is_floating_point:
                torch.testing.assert_close(own, value, rtol=1e-5, atol=1e-4)
            else:
                assert (own != value).float().mean() < 1e-3


def test_images_of_several_sizes_and_heads_are_predicted_as_by_the_model():
    """Images of one padded size are in one batch; the file gets each without its padding."""
    predictor = created({"things": DETR, "surfaces": SETR})
    found = engine.build(file_of(predictor)).with_resize(predictor.resize)
    assert [*found.classes] == ["things", "surfaces"] and found.classes == predictor.classes
    images = [image(97, 131), image(96, 160, 1), image(40, 64, 2), image(100, 130, 3)]
    for own, want in zip(found.predict(images, 0), predictor.predict(images, 0), strict=True):
        assert_same(own, want)


def test_the_heads_are_built_with_the_options_in_the_header():
    predictor = created({"x": {"name": f"{MODULE}:Brightness", "least": 0.5}})
    nn.init.constant_(predictor.heads["x"].layer.weight, 0.0)
    predictor.heads["x"].layer.bias.data = torch.tensor([-1.0, 1.0])
    file = file_of(predictor)
    with pytest.raises(DensevitError, match=MODULE):
        engine.build(file)  # names a module that is not trusted
    result = engine.build(file, [MODULE]).predict(image(50, 70))
    assert result.labels.tolist() == [1] and result.boxes.tolist() == [[0, 0, 70, 50]]
    assert_same(result, predictor.predict(image(50, 70)))


CANNOT = [
    (lambda file: file.predict(image(64, 64), inference={"window": 32}), "in one pass, without windows, flips and sc"),
    (lambda file: densevit.save(file, "saved.safetensors"), r"model\.onnx: an exported file has no weights to save"),
    (
        lambda file: file({"images": torch.zeros(1, 3, 8, 8), "targets": [{"size": (8, 8)}]}),
        "an exported file computes predictions only, no features and no losses",
    ),
]


def test_what_a_file_cannot_do_is_an_error():
    predictor = created({"x": SETR}, None)
    for call, facts in CANNOT:
        with pytest.raises(DensevitError, match=facts):
            call(engine.build(file_of(predictor)))
    one_size = engine.build(file_of(predictor, size=(64, 96)))
    assert one_size.predict(image(64, 96)).semantic.shape == (64, 96)
    with pytest.raises(DensevitError, match=r"64x96 pixels only, .*64x64 .*--resize"):
        one_size.predict(image(64, 64))


def test_an_image_larger_than_the_canvas_is_an_error():
    predictor = created({"x": SETR}, None)
    file = engine.build(file_of(predictor, header_of(predictor) | {"canvas": [64, 96]}))
    assert file.predict(image(50, 96)).semantic.shape == (50, 96)
    with pytest.raises(DensevitError, match=r"model\.onnx: takes images of at most 64x96 pixels; .*65x96"):
        file.predict(image(65, 96))


# ---- opening of files ----


@pytest.fixture
def foreign(tmp_path: Path) -> Path:
    """An ONNX file of another program."""
    import onnx

    value = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, (1,)) for name in ("x", "y")]
    graph = onnx.helper.make_graph([onnx.helper.make_node("Identity", ["x"], ["y"])], "g", value[:1], value[1:])
    opset = [onnx.helper.make_opsetid("", 18)]
    onnx.save(onnx.helper.make_model(graph, opset_imports=opset, ir_version=10), tmp_path / "foreign.onnx")
    return tmp_path / "foreign.onnx"


@pytest.mark.parametrize(
    ("name", "content", "facts"),
    [
        ("foreign.onnx", None, r"foreign\.onnx: has no densevit header, so its inputs"),
        ("broken.onnx", b"not a file", r"broken\.onnx: is not a complete exported file .* Fix: copy it again"),
        ("broken.pt2", b"PK\x03\x04", r"broken\.pt2: is not a complete exported file .* Fix: copy it again"),
        ("missing.onnx", None, r"missing\.onnx: no such file\. Fix: write it with `densevit export MODEL"),
    ],
)
def test_files_that_densevit_did_not_write_are_errors(name: str, content: Any, facts: str, foreign: Path):
    if content is not None:
        foreign.with_name(name).write_bytes(content)
    with pytest.raises(WeightsError, match=facts):
        densevit.load(foreign.with_name(name), trust=True)


class Code:
    """Pickled, it makes a folder when it is read."""

    def __reduce__(self) -> Any:
        return Path.mkdir, (Path("made"),)


@pytest.mark.integration
def test_code_in_a_pt2_file_runs_only_with_trust(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    torch.export.save(torch.export.export(nn.Identity(), (torch.zeros(1, 3, 4, 4),)), "plain.pt2")
    torch.save(Code(), "code.pt")
    with zipfile.ZipFile("plain.pt2") as plain, zipfile.ZipFile("theirs.pt2", "w") as file:
        for name in plain.namelist():
            file.writestr(name, Path("code.pt").read_bytes() if "sample_inputs" in name else plain.read(name))
    with pytest.raises(WeightsError, match=r"theirs\.pt2: PyTorch unpickles .* Fix: if you trust the file, .* --trust"):
        densevit.load("theirs.pt2")
    assert not Path("made").exists()
    with pytest.raises(WeightsError, match=r"theirs\.pt2: is not a complete exported file"):
        densevit.load("theirs.pt2", trust=True)
    assert Path("made").is_dir()


def test_runtimes_that_do_not_exist_or_do_not_fit_are_errors(foreign: Path, uninstalled: Any):
    with pytest.raises(DensevitError, match=r"runtime 'onxruntime': there is no such runtime\. Did you mean 'onnxrun"):
        open_file(foreign, "onxruntime")
    uninstalled("onnxruntime")
    with pytest.raises(DensevitError, match=r"needs the package onnxruntime, which is not installed\. Fix: pip"):
        open_file(foreign)


@pytest.mark.integration
def test_a_class_that_a_file_names_is_not_imported(tmp_path: Path):
    header = {"model": model_file.read(write(tmp_path, MODEL))[1], "heads": {}}
    with pytest.raises(ConfigError, match="is named in this file"):
        engine.build(ExportedFile(Path("model.onnx"), header, dict, "onnxruntime"))
    assert "sentinel_module" not in sys.modules
