"""One file of several heads: the backbone runs once, and each output is the model's."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import densevit
from densevit.data.transforms.default import DefaultTransforms
from densevit.model import DenseModel
from densevit_export.file_comparison import example_images
from tests.small_models import CELLS, FOUR_MAPS, NAIVE, without_zeros

DEPTH = {"name": "dpt", "width": 16, "output": "sigmoid"}
DETR = {"name": "detr", "num_queries": 9, "transformer": {"width": 16, "encoder_layers": 1, "decoder_layers": 1}}
DETECTORS = {"cars": CELLS, "people": DETR, "distance": DEPTH}
CLASSES = {"things": ["cat", "dog"], "surfaces": ["road", "sky"], "cars": ["car", "truck"], "people": ["person"]}

pytestmark = pytest.mark.integration


def predictor_of(heads: dict[str, Any]) -> DenseModel:
    classes = {name: CLASSES[name] for name in heads if name in CLASSES}
    predictor = without_zeros(densevit.create_model(FOUR_MAPS, heads, classes))
    for name in ("things", "cars"):
        if name in heads:
            nn.init.normal_(predictor.heads[name].cells.label_head.weight, std=1.0)
    return predictor.with_resize(DefaultTransforms(64))


def images(count: int) -> list[torch.Tensor]:
    return [torch.from_numpy(example_images((75, 107), 1, i)[0]) for i in range(count)]


@pytest.mark.parametrize(
    ("heads", "suffix", "options"),
    [
        (
            {"things": CELLS, "surfaces": NAIVE, "distance": DEPTH},
            ".onnx",
            {"half": "fp16", "resize": True, "postprocess": True},
        ),
        (DETECTORS, ".pt2", {"half": "bf16"}),
    ],
)
def test_every_output_is_the_models(heads: dict[str, Any], suffix: str, options: Any, tmp_path: Path):
    exported = densevit.export(predictor_of(heads), tmp_path / f"x{suffix}", canvas=(64, 64), **options)
    assert {name.partition("/")[0] for name in exported.differences} == {*heads}
    assert exported.difference <= exported.limit


def test_the_backbone_runs_once_with_the_threshold_of_each_head(tmp_path: Path):
    """Its convolutions occur once in the graph."""
    import onnx

    predictor, threshold = predictor_of(DETECTORS), {"cars": 0.4, "people": 0.2}
    path = tmp_path / "x.onnx"
    exported = densevit.export(predictor, path, resize=True, postprocess=True, canvas=(64, 64), threshold=threshold)
    nodes = [node for node in onnx.load(path).graph.node if node.op_type == "Conv"]
    scopes = [p.value for node in nodes for p in node.metadata_props if p.key == "pkg.torch.onnx.name_scopes"]
    assert len(scopes) == len(nodes)
    assert sum(".backbone." in scope for scope in scopes) == len(predictor.backbone.layers)
    file = densevit.load(path, trust=True)
    assert file.thresholds == threshold and exported.difference <= exported.limit
    for image in images(2):
        result, expected = file.predict(image), predictor.predict(image, threshold)
        for head in threshold:
            assert result[head].names == expected[head].names
            torch.testing.assert_close(result[head].scores, expected[head].scores, rtol=0, atol=1e-4)
        torch.testing.assert_close(result["distance"].depth, expected["distance"].depth, rtol=1e-4, atol=1e-4)
    alone = file.with_heads(["cars"]).predict(images(1)[0], 0)
    torch.testing.assert_close(alone.boxes, file.predict(images(1)[0], 0)["cars"].boxes)
