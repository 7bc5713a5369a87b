"""The causes of an almost empty AP that detections and ground truth show, on cases worked out by hand."""

from collections.abc import Callable

import numpy as np
import pytest
import torch

from densevit.evaluation.coco import AveragePrecision, CocoDetection
from densevit.evaluation.coco_masks import CocoMasks
from densevit.evaluation.low_scores import low_scores
from densevit.evaluation.miou import SemanticSegmentation
from densevit.interfaces import Class
from densevit.targets import RunLengthMasks

CLASSES = [Class(name, n + 1, (0, 0, 0)) for n, name in enumerate(("cat", "dog", "fox"))]
BOXES = torch.tensor([[0.0, 0, 10, 10], [20, 0, 30, 10], [40, 0, 50, 10]])


def masks(boxes: torch.Tensor) -> torch.Tensor:
    filled = torch.zeros(len(boxes), 64, 64, dtype=torch.bool)
    for one, (x, y, right, bottom) in zip(filled, boxes.int().tolist(), strict=True):
        one[y:bottom, x:right] = True
    return filled


def evaluated(
    predicted: Callable[[torch.Tensor], torch.Tensor],
    shift: float = 0.0,
    scores: tuple[float, ...] = (0.9, 0.8, 0.7),
    kind: type[AveragePrecision] = CocoDetection,
) -> AveragePrecision:
    """Eight images with an object of each class, and a detection `shift` pixels beside each object, of the class
    `predicted`; each box is also predicted as each other class, with scores below 0.1."""
    evaluator, labels = kind(CLASSES), torch.arange(3)
    boxes = BOXES + torch.tensor([shift, 0, shift, 0])
    every = torch.tensor([*scores, *[0.05 * score for score in scores for _ in range(3)]])
    found = {"boxes": torch.cat([boxes, boxes.repeat_interleave(3, 0)]), "scores": every}
    found |= {"labels": torch.cat([predicted(labels), labels.repeat(3)]), "masks": masks(found["boxes"])}
    truth = {
        "boxes": BOXES,
        "labels": labels,
        "masks": RunLengthMasks.from_dense(masks(BOXES), (64, 64)),
        "area": torch.full((3,), 100.0),
    }
    evaluator.update([found] * 8, [{"image_id": n, **truth} for n in range(8)])
    return evaluator


@pytest.mark.parametrize("kind", [CocoDetection, CocoMasks])
def test_other_classes_are_named_by_their_pairs(kind: type[AveragePrecision]):
    causes = evaluated(lambda labels: (labels + 1) % 3, kind=kind).low_score_causes()
    assert list(causes) == ["classes"]
    assert "24 of 24 objects have a box with an IoU of at least 0.5" in causes["classes"]
    assert "and 0 of these boxes the class of the object" in causes["classes"]
    pairs = "cat is predicted as dog (8 of 8), dog is predicted as fox (8 of 8), fox is predicted as cat (8 of 8)"
    assert f"{pairs}; each class index differs by +1. Fix" in causes["classes"]
    back = evaluated(lambda labels: (labels - 1) % 3, kind=kind).low_score_causes()["classes"]
    assert "cat is predicted as fox (8 of 8)" in back and "each class index differs by -1. Fix" in back
    mixed = evaluated(lambda labels: torch.tensor([1, 0, 0]), kind=kind).low_score_causes()["classes"]
    assert "fox is predicted as cat (8 of 8). Fix" in mixed


def test_right_classes_and_boxes_elsewhere_have_no_cause():
    assert CocoDetection(CLASSES).low_score_causes() == {}  # without images
    assert evaluated(lambda labels: labels).low_score_causes() == {}
    # 10 - 8 pixels of 10 + 8: an IoU of 0.11, as of an untrained model
    assert evaluated(lambda labels: (labels + 1) % 3, shift=8).low_score_causes() == {}


def test_a_model_that_predicts_background_is_named_with_its_highest_score():
    causes = evaluated(lambda labels: labels, scores=(0.04, 0.03, 0.02)).low_score_causes()
    assert causes["scores"].startswith("No object is predicted in 8 images; the highest of 96 scores is 0.04; ")
    nothing = CocoDetection(CLASSES)
    none = {"boxes": torch.zeros(0, 4), "scores": torch.zeros(0), "labels": torch.zeros(0, dtype=torch.int64)}
    nothing.update([none], [{"image_id": 0, "boxes": BOXES, "labels": torch.arange(3)}])
    assert nothing.low_score_causes()["scores"].startswith("No object is predicted in 1 image; trained")


def test_only_evaluators_that_explain_a_low_score_do():
    evaluators = {"a": CocoDetection(CLASSES), "b": CocoMasks(CLASSES), "c": SemanticSegmentation(CLASSES)}
    metrics = {"a/AP": 0.099, "b/mask_AP": 0.1, "c/mIoU": 0.0}
    assert low_scores(metrics, evaluators) == {"a": 0.099}
    assert low_scores({**metrics, "a/AP": np.nan}, evaluators) == {}, "without ground truth"
