"""NMS of a head without its own: equal boxes from Python, a saved model and an exported file."""

from typing import Any

import numpy as np
import pytest
import torch

import densevit
from densevit.config import InferenceSection
from densevit.errors import ConfigError
from densevit.interfaces import Predictions
from densevit.model import inference_by_head
from densevit.model.duplicate_boxes import without_duplicates
from tests.layers.test_nms import brute_force
from tests.model.small_models import Depth, Pixels, model_of
from tests.model.test_tiled_detection import Masks, Oracle

IOU = 0.6
DETR = {
    "name": "detr",
    "num_queries": 40,
    "transformer": {"width": 32, "num_heads": 2, "encoder_layers": 1, "decoder_layers": 1, "feedforward": 32},
}


def test_the_best_box_of_each_object_and_class_is_kept():
    values: Predictions = {
        "boxes": torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 9], [0, 0, 10, 9], [0, 0, 10, 5], [20, 20, 30, 30]]),
        "scores": torch.tensor([0.8, 0.9, 0.7, 0.6, 0.5]),
        "labels": torch.tensor([0, 0, 1, 0, 0]),
        "track": torch.arange(5),
    }
    options = {"a": InferenceSection(nms=IOU), "b": InferenceSection()}
    found = without_duplicates({"a": [values], "b": [values]}, options)
    assert found["a"][0]["track"].tolist() == [1, 2, 3, 4]  # an IoU of 0.9 is a duplicate, 0.56 is none
    assert {key: len(value) for key, value in found["a"][0].items()} == dict.fromkeys(values, 4)
    assert found["b"] == [values]
    nothing = {key: value[:0] for key, value in values.items()}
    assert len(without_duplicates({"a": [nothing]}, options)["a"][0]["boxes"]) == 0


def kept(plain: Any) -> list[list[float]]:
    """The boxes that NMS keeps, by brute force, rounded and sorted."""
    rows = brute_force(plain.boxes, plain.scores, plain.labels, IOU)
    assert 3 < len(rows) < len(plain.boxes) - 3
    return rounded(plain.boxes[rows])


def rounded(boxes: torch.Tensor) -> list[list[float]]:
    return sorted([round(value, 1) for value in box] for box in boxes.tolist())


@pytest.mark.integration
@pytest.mark.usefixtures("cwd", "quick_exports")
def test_all_places_predict_the_same_boxes() -> None:
    plain = densevit.create_model({"name": "resnet", "depth": 18}, {"cells": DETR}, ["a", "b"])
    with torch.no_grad():
        for parameter in plain.heads["cells"].parameters():
            parameter += 0.3 * torch.randn_like(parameter)
    image = np.random.default_rng(0).integers(0, 256, (64, 96, 3), np.uint8)
    expected = kept(plain.predict(image, threshold=0))
    without = plain.with_inference({"nms": IOU})
    densevit.save(plain, "plain.safetensors")
    densevit.save(without, "without.safetensors")
    with pytest.warns(UserWarning, match=f"inference options nms={IOU}.*apply NMS"):
        densevit.export(without, "without.onnx", quiet=True)
    for place, predictor, options in (
        ("of a call", plain, {"nms": IOU}),
        ("of a predictor", without, None),
        ("of a saved model", densevit.load("without.safetensors"), None),
        ("of an exported file", densevit.load("without.onnx"), None),
        ("of windows", plain, {"nms": IOU, "window": 200}),
    ):
        result = predictor.predict(image, threshold=0, inference=options)
        assert np.allclose(rounded(result.boxes), expected, atol=0.11), place


@pytest.mark.parametrize(
    ("head", "section", "own", "facts"),
    [
        (Depth, {"nms": 0.6}, {}, r"^inference\.nms=0\.6 removes duplicate boxes"),
        (Masks, {"nms": 0.6}, {}, r"^inference\.nms=0\.6 removes duplicate boxes"),
        (Depth, {}, {"nms": 0.6}, r"^heads\.depth\.inference\.nms=0\.6 removes duplicate boxes"),
    ],
)
def test_nms_without_boxes_is_an_error(head, section, own, facts):
    model = model_of(Pixels(), head)
    [name] = model.heads
    with pytest.raises(ConfigError, match=facts):
        inference_by_head(model, InferenceSection(**section), {name: InferenceSection(**own)} if own else {})


def test_dense_heads_beside_boxes_ignore_nms():
    options = inference_by_head(model_of(Pixels(), Depth, Oracle), InferenceSection(nms=IOU, flip=True))
    assert options == {"depth": InferenceSection(flip=True), "detection": InferenceSection(nms=IOU)}
