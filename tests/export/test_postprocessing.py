"""Files with post-processing make the predictions of `predict`, and heads do so from the outputs of other files."""

import ast
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
from densevit.interfaces import LABEL_DIVISOR, VOID, Class
from densevit.model import DenseModel
from densevit.targets.types import TargetTypes, above_threshold
from densevit_export import exported_outputs, file_comparison, files, prediction_comparison
from densevit_export.runtimes import silenced
from densevit_heads.parts.panoptic import merging
from tests.export.test_exporting import BACKBONES, CLASSES, DETR, HEADS
from tests.small_models import (
    FOUR_MAPS,
    drawn_outputs,
    program_predictor,
    small_predictor,
    without_zeros,
)

EOMT = {"num_queries": 9, "num_blocks": 1}
ALL = {
    **HEADS,
    "dab-detr": {**DETR, "name": "dab_detr"},
    "dino": {**DETR, "name": "dino"},
    "dab-detr-panoptic": {"name": "dab_detr_panoptic", "dab_detr": DETR},
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


# ---- predictions from the outputs of a file without post-processing ----


BOXES, MASKS = {"boxes", "labels", "scores"}, {"boxes", "labels", "masks", "scores"}
KEYS = {
    "detr": BOXES,
    "one-stage": BOXES,
    "mask2former": {"panoptic", "semantic", *MASKS},
    "setr": {"semantic"},
    "dpt": {"depth"},
}


@pytest.mark.parametrize("head", KEYS)
def test_predictions_from_outputs_are_those_of_predict(head: str):
    predictor = without_zeros(small_predictor(HEADS[head], None if HEADS[head]["name"] == "dpt" else CLASSES))
    module, outputs = predictor.heads["x"], drawn_outputs(predictor)
    original = (120, 171)
    target = {"size": (75, 107), "original_size": original}
    with torch.no_grad():
        [expected], exported = module.predict(outputs, [target]), exported_outputs.exported(module, outputs, (75, 107))
    [found] = exported_outputs.predict_exported(module, exported, [target])
    assert expected.keys() == found.keys() == KEYS[head]
    for key, value in expected.items():
        assert found[key].dtype == value.dtype and found[key].shape == value.shape
        if value.dtype.is_floating_point:
            scale = max(original) if key == "boxes" else max(1.0, float(value.abs().max()))
            torch.testing.assert_close(found[key] / scale, value / scale, rtol=0, atol=1e-4)
        elif key in ("masks", "semantic", "panoptic"):  # pixels whose values are equal but for rounding
            assert (found[key] != value).float().mean() < 1e-3
            assert len(value.unique()) > 1
        else:
            assert torch.equal(found[key], value)


@pytest.mark.integration
@pytest.mark.parametrize("head", ALL)
def test_boxes_that_leave_the_image_are_clipped_in_predictions_and_files(head: str):
    predictor = predictor_of(head, FOUR_MAPS)
    module, outputs = predictor.heads["x"], drawn_outputs(predictor)
    (h, w), (H, W) = TARGET.values()
    if "boxes" not in exported_outputs.exported(module, outputs, (h, w)):
        pytest.skip("no boxes in its file")
    if "distances" in outputs:
        outputs["distances"] = outputs["distances"].abs() + 9
    else:
        outputs["boxes"][..., 2:] += 0.5
    exported = exported_outputs.exported(module, outputs, (h, w), (H, W))
    with torch.no_grad():
        [predictions] = module.predict(outputs, [TARGET])
    if "distances" in outputs:
        raw = module.fcos.box_coder.decode(outputs["distances"][0], outputs["anchors"]) / torch.tensor([w, h, w, h])
    else:
        cx, cy, width, height = outputs["boxes"][0].unbind(-1)
        raw = torch.stack([cx - width / 2, cy - height / 2, cx + width / 2, cy + height / 2], 1)
    assert (raw < 0).any(0)[:2].all() and (raw > 1).any(0)[2:].all()
    sides = np.array([W, H, W, H])
    clipped = np.clip(raw.numpy(), 0, 1) * sides
    np.testing.assert_allclose(exported["boxes"][0], clipped, rtol=0, atol=1e-3)
    distances = np.abs(predictions["boxes"].numpy()[:, None] - clipped).max(-1)  # (N, Q)
    assert len(distances) and distances.min(1).max() < 1e-3


def test_boxes_are_clipped_by_one_function():
    """torchvision's detectors clip boxes in pixels by torchvision's function."""
    clipping = set()
    for path in [path for folder in ("densevit", "plugins") for path in Path(folder).rglob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text())):
            called = node.func if isinstance(node, ast.Call) else None
            if isinstance(called, ast.Attribute) and called.attr in ("clamp", "clip", "clamp_"):
                names = {x.id for x in ast.walk(called.value) if isinstance(x, ast.Name)}
                if names & {"to_corners", "x0", "x1", "y0", "y1"}:
                    clipping.add(path.as_posix())
    assert clipping == {"densevit/losses/boxes.py"}


# ---- merging, against loops ----


def merged_by_a_loop(logits: Tensor, labels: Tensor, things: Tensor) -> Tensor:
    """`PostProcessPanoptic` of facebookresearch/detr, mask by mask, at the size of the masks."""
    names = labels.tolist()
    while names:
        first = [i if things[name] else names.index(name) for i, name in enumerate(names)]
        owner = torch.tensor(first)[logits.argmax(0)]
        large = [int((owner == i).sum()) > merging.SMALLEST for i in range(len(names))]
        if all(large):
            ids = [name * LABEL_DIVISOR + names[:i].count(name) for i, name in enumerate(names)]
            return torch.tensor(ids, dtype=torch.int32)[owner]
        logits = logits[torch.tensor(large)]
        names = [name for name, keep in zip(names, large, strict=True) if keep]
    return torch.full(logits.shape[1:], VOID, dtype=torch.int32)


def test_masks_are_merged_as_by_detrs_loop():
    things, size = torch.tensor([True, False, True]), (9, 12)
    for count in range(12):
        drawn = torch.Generator().manual_seed(count)
        logits = torch.randn(count, *size, generator=drawn) + 2 * torch.randn(count, 1, 1, generator=drawn)
        labels, competes = torch.randint(3, (count,), generator=drawn), torch.rand(count, generator=drawn) > 0.3
        found = merging.panoptic_map(logits, labels, competes, things, size, size, size)
        expected = merged_by_a_loop(logits[competes], labels[competes], things)
        nothing = torch.full(size, VOID, dtype=torch.int32)
        assert torch.equal(found, expected.expand(size) if competes.any() else nothing), count


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


# ---- the comparison ----


def test_objects_of_nearly_equal_scores_may_have_another_order():
    boxes, labels = torch.tensor([[0.0, 0, 9, 9], [5, 5, 20, 20], [1, 1, 3, 3]]), torch.tensor([0, 0, 1])
    expected = {"boxes": boxes, "scores": torch.tensor([0.5, 0.5 - 1e-6, 0.2]), "labels": labels}
    order = [1, 0, 2]
    found = {key: value[order].numpy() for key, value in expected.items()}
    compare = prediction_comparison.differences
    same = compare(nn.Identity(), expected, found, (20, 20), 1e-4)
    assert same == {"objects": 0.0, "boxes": 0.0, "scores": 0.0}
    without_first = {key: value[1:] for key, value in found.items()}
    assert compare(nn.Identity(), expected, without_first, (20, 20), 1e-4)["objects"] == pytest.approx(0.1 / 3)
    moved = {**found, "boxes": found["boxes"] + np.float32(0.01)}
    assert compare(nn.Identity(), expected, moved, (20, 20), 1e-4)["boxes"] == pytest.approx(0.01 / 20, rel=1e-3)
