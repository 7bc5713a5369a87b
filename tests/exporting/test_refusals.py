"""Exports that are refused before the model is traced: files, options and heads."""

import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

import densevit
from densevit.errors import DensevitError
from densevit.exporting.file_comparison import example_images
from densevit.interfaces import Class
from densevit.model import DenseModel
from tests.exporting.small_models import CELLS, FOUR_MAPS, NAIVE, Cells, FourMaps, small_predictor

IMAGES = [torch.from_numpy(example_images((60, 80), 1, 0)[0])]
REFUSED = [  # head, file, options, facts
    (NAIVE, "x.pt", {}, "Expected NAME.onnx or NAME.pt2"),
    (NAIVE, "x", {}, "Expected NAME.onnx or NAME.pt2"),
    (CELLS, "x.onnx", {"canvas": (80, 96)}, "canvas is 80x96; multiples of 32"),
    (CELLS, "x.onnx", {"canvas": (96, 64)}, "canvas is 96x64; an image of 1000x1000 is resized to 96x96"),
    (NAIVE, "x.pt2", {"resize": True}, r"x\.pt2: only ONNX files can resize.*NAME\.onnx"),
    (NAIVE, "x.pt2", {"postprocess": True}, r"x\.pt2: only ONNX files support post-processing.*NAME\.onnx"),
    (NAIVE, "x.onnx", {"threshold": 0.5}, "threshold: only files with post-processing select objects"),
    (NAIVE, "x.onnx", {"threshold": 0.5, "postprocess": True}, "no head of this model predicts scores"),
    (NAIVE, "x.onnx", {"threshold": {"x": 0.5}, "postprocess": True}, "'x', which is not a head with scores"),
    (CELLS, "x.onnx", {"threshold": 2, "postprocess": True}, "threshold of 'x' is 2; a score from 0 to 1"),
    (NAIVE, "x.pt2", {"int8": IMAGES}, r"x\.pt2: only ONNX files can be quantised"),
    (NAIVE, "x.onnx", {"int8": IMAGES, "half": "fp16"}, "int8 and half are two precisions"),
    (NAIVE, "x.onnx", {"half": "bf16"}, r"ONNX Runtime cannot run .* in bf16"),
    (NAIVE, "x.onnx", {"half": "int4"}, "half is 'int4'; expected one of fp16, bf16"),
]


@pytest.mark.parametrize(("head", "file", "options", "facts"), REFUSED)
def test_files_and_options_that_do_not_fit_are_refused(
    head: dict[str, Any], file: str, options: dict[str, Any], facts: str, tmp_path: Path
):
    with pytest.raises(DensevitError, match=facts):
        densevit.export(small_predictor(head), tmp_path / file, **options)
    assert not [*tmp_path.iterdir()]


def test_a_model_without_a_config_has_no_resizing(tmp_path: Path):
    predictor = densevit.create_model(FOUR_MAPS, {"x": NAIVE}, ["a"])
    with pytest.raises(DensevitError, match=r"no config with `data.image_size`.* Fix: export a run folder"):
        densevit.export(predictor, tmp_path / "model.onnx", resize=True)


def test_a_full_disk_is_an_error_before_the_export(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1000))
    with pytest.raises(DensevitError, match=r"model.onnx takes about 0 MB; .* has 0 MB free"):
        densevit.export(small_predictor(NAIVE), tmp_path / "folder" / "model.onnx")
    assert not [*tmp_path.iterdir()]


class OnValues(Cells):
    """A third party's head whose shapes depend on values, which cannot be traced."""

    def exported(self, outputs, size, original_size=None):
        logits = outputs["logits"]
        return {"logits": logits[:, :, : int(logits.sum())]}

    def predict(self, outputs, targets):
        count = int(outputs["logits"].sum())
        return [{"scores": outputs["logits"][0, 0, 0, :count]} for _ in targets]


@pytest.mark.parametrize(
    ("kind", "options", "facts"),
    [
        (Cells, {}, r"heads.mine \(Cells\) has no outputs for a file. Fix: implement exported"),
        (OnValues, {}, r"FourMaps with OnValues cannot be exported: \w+: .*docs/export.md"),
        (OnValues, {"postprocess": True}, r"^FourMaps with OnValues cannot be exported: .*docs/export.md[^\n]*$"),
    ],
)
def test_heads_that_cannot_be_exported_are_named(kind: Any, options: dict[str, Any], facts: str, tmp_path: Path):
    backbone = FourMaps()
    classes = [Class(name, i, (0, 0, 0)) for i, name in enumerate("abc")]
    model = DenseModel(backbone, {"mine": kind(backbone.channels, backbone.strides, classes)})
    with pytest.raises(DensevitError, match=facts):
        densevit.export(model, tmp_path / "model.onnx", **options)
    assert not [*tmp_path.iterdir()]


@pytest.mark.integration
def test_faster_rcnn_is_an_error_of_one_line(tmp_path: Path):
    predictor = densevit.create_model({"name": "resnet", "depth": 18}, {"x": {"name": "faster_rcnn"}}, ["a"])
    with pytest.raises(DensevitError, match=r"FasterRCNN cannot be exported[^\n]*$"):
        densevit.export(predictor, tmp_path / "x.onnx", postprocess=True)


class Windows(torch.nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.nn.functional.pad(x, (0, (7 - x.shape[-1] % 7) % 7 + 1))


class LongSizes(FourMaps):
    """Pads its maps again and again by a function of their size, as windows of some backbones do."""

    def __init__(self) -> None:
        super().__init__()
        self.windows = torch.nn.ModuleList(Windows() for _ in range(9))

    def forward(self, images: Tensor) -> list[Tensor]:
        features = super().forward(images)
        for windows in self.windows:
            features[0] = windows(features[0])
        return features


def test_a_backbone_with_long_expressions_of_sizes_is_refused_at_once(tmp_path: Path):
    predictor = densevit.create_model({"name": f"{__name__}:LongSizes"}, {"x": CELLS}, ["a"])
    with pytest.raises(DensevitError, match=r"LongSizes cannot .* from Windows on, .* Fix: a canvas .* such as"):
        densevit.export(predictor, tmp_path / "model.pt2")
    assert not [*tmp_path.iterdir()]
