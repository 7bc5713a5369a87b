"""Exports that are refused before the model is traced: files, options and heads."""

from pathlib import Path
from typing import Any

import pytest
import torch

import densevit
from densevit.data.transforms.default import DefaultTransforms
from densevit.errors import DensevitError
from densevit.interfaces import Class
from densevit.model import DenseModel
from densevit_export.file_comparison import example_images
from densevit_export.file_plan import FileOptions, file_plan
from tests.small_models import CELLS, FOUR_MAPS, NAIVE, Cells, FourMaps, small_predictor

IMAGES = [torch.from_numpy(example_images((60, 80), 1, 0)[0])]


@pytest.mark.parametrize(
    ("head", "file", "options", "facts"),
    [  # head, file, options, facts
        (NAIVE, "x.pt", {}, "NAME.onnx, NAME.pt2, NAME.tflite, NAME.pte or, for a page, a folder"),
        (CELLS, "x.onnx", {"canvas": (80, 96)}, "canvas is 80x96; multiples of 32"),
        (CELLS, "x.onnx", {"canvas": (96, 64)}, "canvas is 96x64; an image of 1000x1000 is resized to 96x96"),
        (NAIVE, "x.pt2", {"resize": True}, r"x\.pt2: only ONNX files can resize.*NAME\.onnx"),
        (NAIVE, "x.pt2", {"postprocess": True}, r"x\.pt2: only ONNX files support post-processing.*NAME\.onnx"),
        (NAIVE, "x.onnx", {"threshold": 0.5}, "threshold: only files with post-processing select objects"),
        (CELLS, "x.onnx", {"threshold": 2, "postprocess": True}, "threshold of 'x' is 2; a score from 0 to 1"),
        (NAIVE, "x.pt2", {"int8": IMAGES}, r"x\.pt2: only ONNX files can be quantised"),
        (NAIVE, "x.onnx", {"int8": IMAGES, "half": "fp16"}, "int8 and half are two precisions"),
        (NAIVE, "x.onnx", {"half": "bf16"}, r"ONNX Runtime cannot run .* in bf16"),
        (NAIVE, "x.onnx", {"half": "int4"}, "half is 'int4'; expected one of fp16, bf16"),
    ],
)
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


class OneSize(FourMaps):
    input_size = (64, 64)


def test_a_file_of_a_fixed_size_takes_no_larger_images_and_no_other_canvas(tmp_path: Path):
    predictor = densevit.create_model({"name": f"{__name__}:OneSize"}, {"x": NAIVE}, ["a"])
    windowed, file = predictor.with_resize(DefaultTransforms(96)), tmp_path / "model.onnx"
    for options, facts in (
        ({"resize": True}, "canvas is 64x64; .* resized to 96x96.* Fix: leave out resize, and run the file on windows"),
        ({"canvas": (64, 96)}, "canvas: the backbone takes 64x64 only. Fix: leave out canvas"),
    ):
        with pytest.raises(DensevitError, match=facts):
            densevit.export(windowed, file, **options)
    plan = file_plan(predictor, file, FileOptions())
    assert plan.graph.canvas == (64, 64) and plan.sizes == [(64, 64), (64, 39), (43, 64)]


class OnValues(Cells):
    """A third party's head whose shapes depend on values, which cannot be traced."""

    def exported(self, outputs, size, original_size=None):
        logits = outputs["logits"]
        return {"logits": logits[:, :, : int(logits.sum())]}


@pytest.mark.parametrize(
    ("kind", "facts"),
    [
        (Cells, r"heads.mine \(Cells\) has no outputs for a file. Fix: implement exported"),
        (OnValues, r"FourMaps with OnValues cannot be exported: \w+: .*docs/export.md"),
    ],
)
def test_heads_that_cannot_be_exported_are_named(kind: Any, facts: str, tmp_path: Path):
    backbone = FourMaps()
    classes = [Class(name, i, (0, 0, 0)) for i, name in enumerate("abc")]
    model = DenseModel(backbone, {"mine": kind(backbone.channels, backbone.strides, classes)})
    with pytest.raises(DensevitError, match=facts):
        densevit.export(model, tmp_path / "model.onnx")
    assert not [*tmp_path.iterdir()]
