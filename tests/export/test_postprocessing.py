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
from densevit.interfaces import Class
from densevit.layers.nms import class_nms
from densevit.model import DenseModel
from densevit.targets.types import TargetTypes, above_threshold
from densevit_export import file_comparison, files
from densevit_export.runtimes import silenced
from tests.export.test_exporting import BACKBONES, DETR, HEADS
from tests.layers.test_nms import IOU, SIZES, brute_force, objects
from tests.small_models import (
    FOUR_MAPS,
    drawn_outputs,
    program_predictor,
    without_zeros,
)
from tests.weights.states import assert_state

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
    "pmt": {"name": "pmt", **EOMT},
    "pmt-instance": {"name": "pmt_instance", **EOMT},
    "pmt-semantic": {"name": "pmt_semantic", **EOMT},
}
CLASS_LIST = [Class("a", 0, (0, 0, 0)), Class("b", 1, (0, 0, 0), thing=False), Class("c", 2, (0, 0, 0))]


def predictor_of(head: str, backbone: dict[str, Any]) -> DenseModel:
    section = ALL[head]
    classes: Any = None if section["name"] == "dpt" else CLASS_LIST
    backbone = BACKBONES["vit"] if section["name"].startswith(("eomt", "pmt")) else backbone
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

    def forward(self, outputs: dict[str, Tensor], original: Tensor) -> Any:
        target = {"size": (75, 107), "original_size": tuple(original.shape)}
        return self.head.predict({**self.constants, **outputs}, [target])[0]


TARGET: Any = {"size": (75, 107), "original_size": (120, 171)}


@pytest.mark.integration
@pytest.mark.parametrize("head", ALL)
def test_masks_below_the_threshold_are_not_upsampled(head: str):
    """Nor are masks that the panoptic map leaves out; a semantic map is of all masks."""
    predictor = predictor_of(head, FOUR_MAPS)
    outputs, module = drawn_outputs(predictor), predictor.heads["x"]
    with torch.no_grad():
        [every] = module.predict(outputs, [TARGET])
    if "masks" not in every:
        pytest.skip("predicts no masks")
    lowest = every["scores"].quantile(0.6)
    names = ("logits", "boxes", "masks", "distances", "padding")
    tensors = {key: value for key, value in outputs.items() if key in names} | {"lowest_score": lowest}
    traced = Predict(module, {key: value for key, value in outputs.items() if key not in tensors}).eval()
    example = (tensors, torch.zeros(TARGET["original_size"], dtype=torch.uint8))
    with torch.no_grad():
        found = traced(*example)
        program = torch.export.export(traced, example, strict=False)
        for predictions in (found, program.module()(*example)):
            assert 0 < len(found["scores"]) < len(every["scores"])
            above, expected = (above_threshold(x, lowest, TargetTypes(None)) for x in (predictions, every))
            assert_state(above, expected)
    sizes = [node.meta["val"].shape for node in program.graph.nodes if "upsample_bilinear2d" in str(node.target)]
    of_all_masks = [size for size in sizes if not any(isinstance(side, torch.SymInt) for side in size)]
    assert len(sizes) > len(of_all_masks) == (2 if "semantic" in every else 0), sizes


# ---- files ----


@pytest.mark.integration
def test_a_program_gets_the_objects_above_the_threshold_that_it_passes(program: Path, tmp_path: Path, run: Any):
    """The header has the default. The operators are of opset 18."""
    import onnx
    import onnxruntime

    session = onnxruntime.InferenceSession(program / "model.onnx")
    shapes = {value.name: value.shape for value in session.get_inputs()}
    assert shapes == {"images": [1, 3, "height", "width"], "thresholds": [1]}
    assert [imported.version for imported in onnx.load(program / "model.onnx").opset_import if not imported.domain] == [
        18
    ]
    described = json.loads((program / "model.json").read_text())
    differences, threshold = described["differences"], described["thresholds"]["x"]
    metadata = session.get_modelmeta().custom_metadata_map
    assert json.loads(metadata["densevit"])["postprocess"] == {"thresholds": {"x": threshold}}
    assert metadata["thresholds"] == str(threshold)
    assert max(differences.values()) <= 1e-4 and differences["objects"] == 0
    loaded = densevit.load(program / "model.onnx", trust=True)
    of_file, expected = (x.predict(program / "image.png", 0) for x in (loaded, program_predictor()))
    torch.testing.assert_close(of_file.scores, expected.scores, rtol=0, atol=2e-3)  # one level of brightness
    above = int((of_file.scores >= threshold).sum())
    assert len(loaded.predict(program / "image.png").scores) == above < len(of_file.scores)
    pixels = np.asarray(Image.open(program / "image.png")).transpose(2, 0, 1)[None]
    inputs = {"images": pixels, "thresholds": np.array([threshold], np.float32)}
    boxes, found, labels = session.run(["boxes", "scores", "labels"], inputs)
    assert boxes.shape == (len(found), 4) and labels.shape == found.shape
    assert len(found) >= 31 and found.min() >= np.float32(threshold)
    said = run("predict", program / "model.onnx", program / "image.png", "--trust", "--out", tmp_path / "out")
    assert f"the {len(found)} objects of score" in said and "inside the file" in said


EACH_KIND = [(head, FOUR_MAPS) for head in ("one-stage", "mask2former", "dpt", "classifier")]


@pytest.mark.parametrize(
    ("head", "backbone"),
    [
        *(pytest.param(*row, marks=pytest.mark.integration) for row in EACH_KIND),
        *(pytest.param(head, BACKBONES["resnet"], marks=pytest.mark.slow) for head in ALL),
    ],
)
def test_every_head_is_exported_for_original_images_of_any_size(head: str, backbone: dict[str, Any], tmp_path: Path):
    predictor = predictor_of(head, backbone)
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
        assert session.run(None, inputs)[0].tolist() == loaded(*image).tolist() == brute_force(*image), classes
