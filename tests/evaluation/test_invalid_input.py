"""Predictions, ground truth and options that evaluators refuse, with the image and what was found."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from densevit import registry
from densevit.errors import DensevitError
from tests.evaluation.coco_reference import CLASSES
from tests.evaluation.test_laws import SIZE, evaluator, image

Change = Callable[[dict[str, Any], dict[str, Any]], Any]
NINES = torch.full(SIZE, 9, dtype=torch.uint8)


def found(**values: Any) -> Change:
    """Changes of the prediction."""
    return lambda prediction, truth: prediction.update(values)


def known(**values: Any) -> Change:
    """Changes of the ground truth."""
    return lambda prediction, truth: truth.update(values)


def without(key: str) -> Change:
    """The prediction lacks the key."""
    return lambda prediction, truth: prediction.pop(key)


# Of three objects, four classes and maps of 24 x 32: the evaluator, what is wrong, and what the error says.
@pytest.mark.parametrize(
    ("name", "wrong", "says"),
    (
        ("detection", found(labels=torch.tensor([0, 9, 0])), "predicted label 9, but there are 4 classes"),
        (
            "detection",
            found(scores=torch.tensor([0.5, math.nan, 0.5])),
            "a predicted box or score is not a finite number",
        ),
        ("detection", found(scores=torch.ones(2)), "predictions with 3 boxes, 2 scores, 3 labels"),
        ("detection", known(labels=torch.tensor([0, 9, 0])), "label 9, but there are 4 classes"),
        ("detection", known(boxes=torch.full((3, 4), math.nan)), "boxes has a box that is not finite"),
        ("detection", known(boxes=torch.tensor([[20.0, 9, 6, 6]] * 3)), "boxes have x2 < x1 or y2 < y1 in 3 of 3"),
        (
            "detection",
            known(labels=torch.tensor([0.0, 1.5, 2])),
            "type torch.float32; expected integers",
        ),
        ("detection", lambda p, t: t.pop("labels"), "ground truth without labels; found: "),
        ("coco_masks", found(masks=torch.zeros(3, *SIZE)), "predicted `masks` are (3, 24, 32) float32; (N, H, W)"),
        ("coco_masks", known(masks=torch.zeros(3, *SIZE, dtype=torch.bool)), "ground-truth masks are a Tensor"),
        ("coco_masks", known(labels=torch.zeros(2, dtype=torch.long)), "ground truth with 3 masks, 2 labels"),
        ("segmentation", without("semantic"), "its prediction has no `semantic`, only class_scores"),
        ("segmentation", found(semantic=NINES[:9]), "differ in height x width: 9 x 32 and 24 x 32"),
        ("segmentation", found(semantic=NINES.long()), "of its prediction is (24, 32) int64; (H, W) uint8 is expected"),
        ("segmentation", found(semantic=NINES), "of its prediction is 9 in"),
        ("segmentation", known(semantic=NINES), "of its ground truth is 9 in 768 pixels; 0 ... 3 is expected, for 4"),
        ("depth", without("depth"), "no `depth`"),
        (
            "depth",
            known(depth=torch.full(SIZE, 900)),
            "has the type torch.int64; expected floats in metres",
        ),
        ("depth", lambda p, t: p.update(inverse_depth=p.pop("depth")), "relative"),
        ("depth", found(depth=torch.ones(24, 9)), "24 x 9 and 24 x 32"),
        ("depth", found(depth=torch.full(SIZE, math.nan)), "not finite in"),
        ("panoptic", without("panoptic"), "its prediction has no `panoptic`"),
        (
            "panoptic",
            found(panoptic=torch.zeros(SIZE)),
            "`panoptic` of its prediction is (24, 32) float32; (H, W) int32",
        ),
        (
            "panoptic",
            found(panoptic=torch.full(SIZE, 9000).int()),
            "of its prediction is 9000 in 768 pixels; 0 ... 3999",
        ),
        ("panoptic", known(panoptic=torch.full(SIZE, -2).int()), "of its ground truth is -2 in 768 pixels"),
        ("classification", without("class_scores"), "its prediction has no `class_scores`, only"),
        ("classification", found(class_scores=np.zeros(3)), "has the shape (3,); expected (4,)"),
        ("classification", known(image_class=torch.tensor(4)), "`image_class` is 4; 0 ... 3 is expected"),
    ),
)
def test_invalid_input_is_refused_with_its_image(name: str, wrong: Change, says: str) -> None:
    made, (prediction, truth) = evaluator(name), image(1)
    before = str(made.metrics())
    wrong(prediction, truth)
    with pytest.raises(DensevitError) as error:
        made.update([prediction], [truth])
    assert str(error.value).lower().startswith("image 1: ") and says in str(error.value)
    assert str(made.metrics()) == before  # a refused update has no effect


@pytest.mark.parametrize(
    ("name", "options", "says"),
    [
        ("detection", {"max_detections": 5}, "max_detections is 5"),
        *(("coco_masks", {"boundary": value}, "boundary is") for value in (0.0, 1.5)),
        *(("segmentation", {"boundary": value}, f"boundary is {value}") for value in (0.0, 1.0)),
        ("depth", {"min_depth": 0.0}, "min_depth is 0.0"),
        ("depth", {"max_depth": 1e-4}, "max_depth is 0.0001"),
        ("depth", {"deltas": [0.9]}, "deltas is [0.9]"),
    ],
)
def test_invalid_options_are_refused(name: str, options: dict[str, Any], says: str) -> None:
    with pytest.raises(DensevitError) as error:
        registry.create("evaluators", name, CLASSES, options=options, where=name)
    assert says in str(error.value)
