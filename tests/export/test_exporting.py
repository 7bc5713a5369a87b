"""Exported files give the model's outputs on sizes and batches that they were not traced with."""

import errno
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch

import densevit
from densevit.data.transforms.default import DefaultTransforms
from densevit.errors import DensevitError
from densevit.layers.positions import Resizing
from densevit.layers.selection import recorded
from densevit.model import DenseModel
from densevit_backbones.swin.variants import VARIANTS, Variant
from densevit_export import exporting, file_comparison, files, runtimes
from densevit_export.graph import ExportedGraph
from tests.small_models import CELLS, small_predictor, without_zeros

CLASSES = ["a", "b", "c"]
BACKBONES: dict[str, dict[str, Any]] = {
    "resnet": {"name": "resnet", "depth": 18},
    "swin": {"name": "swin", "variant": "nano"},
    "vit": {"name": "vit", "variant": "nano"},
    "mit": {"name": "mit", "variant": "b0"},
    "mvit": {"name": "mvit", "variant": "nano"},
    "timm": {"name": "timm", "model": "pit_ti_224", "image_size": 128},
}
DETR = {"num_queries": 9, "transformer": {"width": 32, "encoder_layers": 1, "decoder_layers": 2}}
MASK2FORMER = {"num_queries": 9, "transformer": {"width": 32, "decoder_layers": 2}, "pixel_decoder": {"layers": 1}}
QUERY_GROUPS = {"num_queries": 9, "transformer": {"width": 32, "decoder_layers": 2}}
ENCODER = {"width": 32, "feedforward": 32, "expansion": 0.5}
ANCHORS = {**DETR, "name": "box_query_detr", "classification": "mal"}
HEADS: dict[str, dict[str, Any]] = {
    "detr": {"name": "detr", **DETR},
    "detr-two-stage": {**ANCHORS, "extensions": {"two_stage": True}},
    "detr-distinct": {**DETR, "name": "ddq", "duplicate_iou": 0.8, "dense_loss": 1.0},
    "deformable-detr": {"name": "deformable_detr", **DETR},
    "deformable-two-stage": {"name": "deformable_detr", **DETR, "two_stage": True, "box_refinement": True},
    "rtdetr": {"name": "rtdetr", "encoder": ENCODER, **DETR},
    "dfine": {"name": "dfine", "encoder": ENCODER, "fusion_blocks": 1, **DETR},
    "rtdetr-discrete": {"name": "rtdetr", "encoder": ENCODER, "sampling": "discrete", "num_points": [3, 1, 2], **DETR},
    "rf-detr": {"name": "rf_detr", **QUERY_GROUPS},
    "rf-detr-instance": {"name": "rf_detr_instance", **QUERY_GROUPS},
    "gtr": {"name": "gtr", **QUERY_GROUPS},
    "gtr-instance": {"name": "gtr_instance", **QUERY_GROUPS},
    "gtr-semantic": {"name": "gtr_semantic", "width": 32},
    "one-stage": {"name": "one_stage", "width": 32},
    "fcos": {"name": "fcos", "width": 64},
    "detr-panoptic": {"name": "detr_panoptic", "detr": DETR},
    "mask2former": {"name": "mask2former", **MASK2FORMER},
    "mask2former-instance": {"name": "mask2former_instance", **MASK2FORMER},
    "mask2former-semantic": {"name": "mask2former_semantic", **MASK2FORMER},
    "setr": {"name": "setr"},
    "segformer": {"name": "segformer", "width": 32},
    "upernet": {"name": "upernet", "width": 32, "auxiliary_width": 16},
    "segmenter": {"name": "segmenter"},
    "dpt": {"name": "dpt", "width": 16, "output": "sigmoid"},
    "dpt-segmentation": {"name": "dpt_segmentation", "width": 16},
    "linear": {"name": "linear", "features": [1]},
    "linear-depth": {"name": "linear_depth"},
}


def predictor_of(backbone: str, head: str) -> DenseModel:
    section = HEADS[head]
    classes = None if section["name"] in ("dpt", "linear_depth") else CLASSES
    return without_zeros(densevit.create_model(BACKBONES[backbone], {"x": section}, classes))


@pytest.mark.integration
@pytest.mark.parametrize("resizing", get_args(Resizing))
def test_position_embeddings_are_resized_for_any_size(resizing, tmp_path):
    vit = {**BACKBONES["vit"], "position_resizing": resizing}
    model = without_zeros(densevit.create_model(vit, {"x": HEADS["linear"]}, CLASSES))
    assert densevit.export(model, tmp_path / "model.onnx", quiet=True).difference < 1e-4


def check(predictor: DenseModel, suffix: str, folder: Path) -> dict[str, float]:
    exported = densevit.export(predictor, folder / f"model{suffix}")
    assert exported.path.is_file() and list(folder.iterdir()) == [exported.path]
    assert exported.difference <= 1e-4
    assert exported.model_ms > 0 and exported.file_ms > 0
    if suffix == ".onnx":
        import onnx

        assert "GridSample" not in {node.op_type for node in onnx.load(exported.path).graph.node}
    return exported.differences


@pytest.mark.integration
def test_a_file_gives_the_models_outputs(tmp_path: Path, variant: Callable[..., None]):
    """Also of windows that need padding at other sizes than the traced one; of a Swin with few blocks."""
    variant(VARIANTS, "nano", Variant(16, (2, 1, 1, 1), (1, 1, 2, 2), 0.0))
    torch.manual_seed(0)
    predictor = densevit.create_model(BACKBONES["swin"], {"x": CELLS}, CLASSES)
    check(predictor.with_resize(DefaultTransforms(96)), ".pt2", tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("backbone", "head", "suffix"), [(backbone, head, ".onnx") for backbone in BACKBONES for head in HEADS]
)
def test_every_head_and_backbone_is_exported(backbone: str, head: str, suffix: str, tmp_path: Path):
    check(predictor_of(backbone, head), suffix, tmp_path)


@torch.no_grad()
def outputs_of(graph: ExportedGraph, images: np.ndarray, error: float = 0.0) -> dict[str, np.ndarray]:
    """What a file of the graph returns, plus an error."""
    return {name: value.numpy() + np.float32(error) for name, value in graph(torch.from_numpy(images)).items()}


def untraced(predictor: DenseModel, patch: pytest.MonkeyPatch, error: float = 0.0) -> None:
    """Lets `export` write files without tracing, whose outputs are the model's plus an error."""
    run = partial(outputs_of, ExportedGraph(predictor.eval()), error=error)
    for module, name, stand_in in (
        (files, "write", lambda graph, path, *_: path.write_text("a file")),
        (files, "traced", lambda *_: None),
        (exporting, "load_selections", lambda *_: None),
        (runtimes, "load", lambda path: run),
    ):
        patch.setattr(module, name, stand_in)


def test_a_wrong_file_is_an_error_and_not_left_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Nor is a part of one where the disk fills while it is saved."""
    predictor = small_predictor(CELLS)
    untraced(predictor, monkeypatch, 0.01)
    with pytest.raises(DensevitError, match="`scores` differs from the model by 1.0e-02 .* 1e-04"):
        densevit.export(predictor, tmp_path / "model.pt2")
    assert not list(tmp_path.iterdir())

    def write(graph: ExportedGraph, path: Path, *_: Any) -> Path:
        path.write_text("a part")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files, "write", write)
    with pytest.raises(OSError, match="No space left"):
        densevit.export(predictor, tmp_path / "model.pt2")
    assert not list(tmp_path.iterdir())


def test_selections_are_compared_but_not_in_the_file():
    """A file that selects other queries than the model is wrong, even if its outputs are those of these queries."""
    graph = ExportedGraph(predictor_of("resnet", "deformable-two-stage")).eval()
    images = file_comparison.example_images((96, 128), 1, 0)
    run = partial(outputs_of, graph)

    def selections(images: np.ndarray) -> dict[str, np.ndarray]:
        with torch.no_grad(), recorded(graph.model.heads["x"]) as made:
            graph(torch.from_numpy(images))
        return {"selection_0": made[0].indices.numpy(), "selection_scores_0": made[0].scores.numpy()}

    assert run(images).keys() == {"boxes", "scores"}
    found = file_comparison.differences(graph, run, images, selections)
    assert found == dict.fromkeys(["boxes", "scores", "selection_scores_0", "selection_0"], 0.0)
    own = selections(images)
    own["selection_0"] = own["selection_scores_0"].argsort(1)[:, : own["selection_0"].shape[1]].copy()
    assert file_comparison.differences(graph, run, images, lambda _: own)["selection_0"] > 1e-3
