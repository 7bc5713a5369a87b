"""The causes of an almost empty AP that detections and ground truth show, on cases worked out by hand."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from densevit.evaluation.coco import AveragePrecision, CocoDetection
from densevit.evaluation.coco_masks import CocoMasks
from densevit.evaluation.low_classes import low_classes, median_sides
from densevit.evaluation.low_scores import low_scores
from densevit.evaluation.miou import SemanticSegmentation
from densevit.interfaces import Class, Dataset
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


# ---- classes that are hardly found, with sizes worked out by hand ----


CELLS = tuple(Class(name, k, (0, 0, 0)) for k, name in enumerate(("cell", "platelet", "none")))


class Cells(Dataset):
    """An image of 100 x 200 (h, w) and one of 400 x 200, with three platelets and a cell."""

    def __init__(self) -> None:
        self.classes = {"detection": CELLS}

    def __len__(self) -> int:
        return 2

    def sizes(self) -> np.ndarray:
        return np.array([[100, 200], [400, 200]])

    def all_objects(self) -> Any:
        boxes = np.array([[0, 0, 40, 10], [0, 0, 8, 8], [10, 10, 50, 50], [0, 0, 100, 100]], np.float32)
        return np.array([0, 0, 1, 1]), {"boxes": boxes, "labels": np.array([1, 1, 1, 0])}


def half_of_the_second(height: int, width: int) -> tuple[int, int]:
    return (height, width) if height == 100 else (height // 2, width // 2)


def table(*rows: tuple[str, int, float]) -> Any:
    return [["class", "objects", "predictions", "AP"], *([name, count, 9, ap] for name, count, ap in rows)]


def test_median_sides_are_in_pixels_of_the_input():
    # platelets: sqrt(40 * 10) = 20, 8, and 40 / 2 = 20
    assert median_sides(Cells(), half_of_the_second) == {"cell": 50.0, "platelet": 20.0}
    assert median_sides(Cells(), lambda height, width: (height // 4, width // 4)) == {"cell": 25.0, "platelet": 5.0}
    assert median_sides(Dataset(), half_of_the_second) == {}, "not known without reading images"


def test_classes_of_low_ap_are_named():
    rows = table(("cell", 3, 0.009), ("platelet", 76, 0.0), ("none", 0, float("nan")), ("dog", 2, 0.01))
    line = "AP below 0.01, although there are objects: cell (median side 50 px), platelet (median side 20 px); sides in"
    assert low_classes(rows, lambda: {"cell": 50.0, "platelet": 20.0}) == f"{line} the model's input."
    small = low_classes(rows, lambda: {"cell": 50.0, "platelet": 15.4})
    assert "Larger images (data.image_size) help" in small
    assert low_classes(rows, dict) == "AP below 0.01, although there are objects: cell, platelet."


def test_without_classes_of_low_ap_there_is_no_line():
    def fail() -> Any:
        raise AssertionError("not needed")

    assert low_classes(table(("cell", 3, 0.5), ("none", 0, float("nan"))), fail) == ""
    assert low_classes([["class", "pixels", "IoU"], ["cell", 9, 0.0]], fail) == ""
