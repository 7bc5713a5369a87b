"""Files with post-processing make the predictions of `predict`, and heads do so from the outputs of other files."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import densevit
from densevit import registry
from densevit.cli import main
from densevit.interfaces import Class
from densevit.layers.nms import class_nms
from densevit.model import DenseModel
from densevit.targets.types import TargetTypes, above_threshold
from densevit_export import file_comparison, files, prediction_comparison
from densevit_export.runtimes import silenced
from tests.export.test_exporting import BACKBONES, DETR, HEADS
from tests.layers.test_nms import IOU, SIZES, brute_force, objects
from tests.small_models import (
    FOUR_MAPS,
    drawn_outputs,
    program_predictor,
    without_zeros,
)

EOMT = {"num_queries": 9, "num_blocks": 1}
ALL = {
    **HEADS,
    "box-query-detr": {**DETR, "name": "box_query_detr"},
    "dino": {**DETR, "name": "dino"},
    "box-query-detr-panoptic": {"name": "box_query_detr_panoptic", "box_query_detr": DETR},
    "classifier": {"name": "classifier"},
    "eomt": {"name": "eomt", **EOMT},
    "eomt-instance": {"name": "eomt_instance", **EOMT},
    "eomt-semantic": {"name": "eomt_semantic", **EOMT},
}
CLASS_LIST = [Class("a", 0, (0, 0, 0)), Class("b", 1, (0, 0, 0), thing=False), Class("c", 2, (0, 0, 0))]


def predictor_of(head: str, backbone: dict[str, Any]) -> DenseModel:
    torch.manual_seed(0)
    section = ALL[head]
    classes: Any = None if section["name"] == "dpt" else CLASS_LIST
    backbone = BACKBONES["vit"] if section["name"].startswith("eomt") else backbone
    return without_zeros(densevit.create_model(backbone, {"x": section}, classes))


def test_every_registered_head_is_tested():
    """Those of `densevit_papers` are tested by `check_head` only."""
    heads = {name for name, plugin in registry.find("heads").items() if plugin.value.startswith("densevit_heads.")}
    assert {section["name"] for section in ALL.values()} == heads - {"faster_rcnn"}


# ---- the traced post-processing ----


class Predict(nn.Module):
    """`predict` of a head on outputs of images of 75x107 pixels, whose original size varies."""

    def __init__(self, head: nn.Module, constants: dict[str, Any]) -> None:
        super().__init__()
        self.head: Any = head
        self.constants = constants

    def forward(self, outputs: dict[str, Tensor], original: Tensor) -> dict[str, Tensor]:
        size = (original.shape[0], original.shape[1])
        found: dict[str, Tensor] = self.head.predict(
            {**self.constants, **outputs}, [{"size": (75, 107), "original_size": size}]
        )[0]
        return found


KINDS = ("one-stage", "fcos", "mask2former", "dpt", "classifier")


@pytest.mark.integration
@pytest.mark.parametrize("head", KINDS)
def test_predict_is_traced_for_original_images_of_any_size(head: str, tmp_path: Path):
    predictor = predictor_of(head, FOUR_MAPS)
    outputs = drawn_outputs(predictor)
    tensors = {k: v for k, v in outputs.items() if k in ("logits", "boxes", "masks", "depth", "distances", "padding")}
    others = {key: value for key, value in outputs.items() if key not in tensors}
    module = Predict(predictor.heads["x"], others).eval()
    example = (tensors, torch.zeros(90, 131, dtype=torch.uint8))
    sides = {0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC}
    with torch.no_grad():
        program = torch.export.export(
            module, example, dynamic_shapes=({key: {} for key in tensors}, sides), strict=False
        )
        names = list(module(*example))
    with silenced():
        files.converted(program, [*(f"given_{name}" for name in tensors), "original"], names).save(tmp_path / "x.onnx")
    import onnxruntime

    session = onnxruntime.InferenceSession(tmp_path / "x.onnx")
    used = {one.name.removeprefix("given_"): one.name for one in session.get_inputs()}
    for original in [(120, 171), (33, 200)]:
        pixels = torch.zeros(original, dtype=torch.uint8)
        with torch.no_grad():
            expected = module(tensors, pixels)
        inputs = {used[k]: v.numpy() for k, v in {**tensors, "original": pixels}.items() if k in used}
        found = dict(zip(names, session.run(names, inputs), strict=True))
        differences = prediction_comparison.differences(predictor.heads["x"], expected, found, original, 1e-5)
        assert max(differences.values()) <= 1e-5, differences
        assert {*found} == {*expected}
        if "panoptic" in expected:
            assert len(expected["panoptic"].unique()) > 1
        if "scores" in expected:
            assert len(expected["scores"])


TARGET: Any = {"size": (75, 107), "original_size": (120, 171)}


@pytest.mark.integration
@pytest.mark.parametrize("head", ALL)
def test_masks_below_the_threshold_are_not_upsampled(head: str):
    """Nor are masks that the panoptic map leaves out; a semantic map is of all masks."""
    predictor = predictor_of(head, FOUR_MAPS)
    outputs = drawn_outputs(predictor)
    module = predictor.heads["x"]
    with torch.no_grad():
        [every] = module.predict(outputs, [TARGET])
    if "masks" not in every:
        pytest.skip("predicts no masks")
    lowest = every["scores"].quantile(0.6)
    names = ("logits", "boxes", "masks", "distances", "padding")
    tensors = {key: value for key, value in outputs.items() if key in names} | {"lowest_score": lowest}
    others = {key: value for key, value in outputs.items() if key not in tensors}
    traced = Predict(module, others).eval()
    example = (tensors, torch.zeros(TARGET["original_size"], dtype=torch.uint8))
    with torch.no_grad():
        found = traced(*example)
        program = torch.export.export(traced, example, strict=False)
        for predictions in (found, program.module()(*example)):
            assert 0 < len(found["scores"]) < len(every["scores"])
            for key, value in above_threshold(every, lowest, TargetTypes(None)).items():
                above = above_threshold(predictions, lowest, TargetTypes(None))
                assert torch.equal(above[key], value), key
    sizes = [node.meta["val"].shape for node in program.graph.nodes if "upsample_bilinear2d" in str(node.target)]
    of_all_masks = [size for size in sizes if not any(isinstance(side, torch.SymInt) for side in size)]
    assert len(sizes) > len(of_all_masks) == (2 if "semantic" in every else 0), sizes


# ---- files ----


@pytest.mark.integration
def test_a_program_needs_no_inputs_but_the_image_and_gets_the_objects_above_the_threshold(
    program: Path, tmp_path: Path, capsys: Any
):
    import onnxruntime

    session = onnxruntime.InferenceSession(program / "model.onnx")
    assert [one.name for one in session.get_inputs()] == ["images"]
    differences = json.loads((program / "model.json").read_text())["differences"]
    assert max(differences.values()) <= 1e-4 and differences["objects"] == 0
    expected, loaded = (
        program_predictor().predict(program / "image.png", 0),
        densevit.load(program / "model.onnx", trust=True),
    )
    of_file = loaded.predict(program / "image.png", threshold=0)
    torch.testing.assert_close(of_file.scores, expected.scores, rtol=0, atol=2e-3)  # one level of brightness
    threshold = json.loads((program / "model.json").read_text())["threshold"]
    above = int((of_file.scores >= threshold).sum())
    assert len(loaded.predict(program / "image.png").scores) == above < len(of_file.scores)
    pixels = np.asarray(Image.open(program / "image.png")).transpose(2, 0, 1)[None]
    boxes, found, labels = session.run(["boxes", "scores", "labels"], {"images": pixels})
    assert boxes.shape == (len(found), 4) and labels.shape == found.shape
    assert len(found) >= 31 and found.min() >= np.float32(threshold)
    given = [str(program / name) for name in ("model.onnx", "image.png")]
    assert main(["predict", *given, "--trust", "--out", str(tmp_path / "out")]) == 0
    assert f"the {len(found)} objects of score" in (said := capsys.readouterr().out) and "inside the file" in said


@pytest.mark.slow
@pytest.mark.parametrize("head", ALL)
def test_every_head_is_exported(head: str, tmp_path: Path):
    predictor = predictor_of(head, BACKBONES["resnet"])
    exported = densevit.export(predictor, tmp_path / "x.onnx", postprocess=True, threshold=None)
    assert exported.difference <= 1e-4
    loaded = densevit.load(exported.path, trust=True)
    image = torch.from_numpy(file_comparison.example_images((75, 107), 1, 5)[0])
    assert [*loaded.predict(image)] == [*predictor.predict(image)]


# ---- NMS, against brute force ----


class Suppressed(nn.Module):
    def forward(self, boxes: Tensor, scores: Tensor, classes: Tensor) -> Tensor:
        return class_nms(boxes, scores, classes, IOU)


@pytest.mark.integration
def test_exported_files_have_the_operators_axis_of_classes(tmp_path: Path) -> None:
    """One graph for any number of boxes and classes, as pt2 and as ONNX."""
    import onnx
    import onnxruntime

    rows = {0: torch.export.Dim("rows", min=2)}
    with torch.no_grad():
        program = torch.export.export(Suppressed(), objects(60, 3, 64), dynamic_shapes=(rows, rows, rows))
    torch.export.save(program, tmp_path / "x.pt2")
    loaded = torch.export.load(tmp_path / "x.pt2").module()
    with silenced():
        files.converted(program, ["boxes", "scores", "classes"], ["kept"]).save(tmp_path / "x.onnx")
    graph = onnx.load(tmp_path / "x.onnx").graph
    assert [node.op_type for node in graph.node].count("NonMaxSuppression") == 1 and len(graph.node) < 40
    session = onnxruntime.InferenceSession(tmp_path / "x.onnx")
    for classes, pixels in SIZES:
        image = objects(800, classes, pixels)
        inputs = dict(zip(("boxes", "scores", "classes"), (x.numpy() for x in image), strict=True))
        expected = brute_force(*image)
        assert session.run(None, inputs)[0].tolist() == expected, (classes, pixels)
        assert loaded(*image).tolist() == expected
