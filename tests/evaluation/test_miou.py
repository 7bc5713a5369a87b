"""SemanticSegmentation against values by hand, sets of pixels and erosion of each mask."""

import math
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from densevit.errors import DataError
from densevit.evaluation.miou import SemanticSegmentation
from densevit.interfaces import Class
from tests.evaluation.coco_reference import near_boundary, updated
from tests.evaluation.evaluated import image_scores_of, tables_of

Image = tuple[dict[str, Any], dict[str, Any]]


def classes(count: int) -> tuple[Class, ...]:
    return tuple(Class(f"class {n}", n, (n, n, n)) for n in range(count))


def image(image_id: int | str, truth: Any, prediction: Any) -> Image:
    found, known = (torch.as_tensor(labels, dtype=torch.uint8) for labels in (prediction, truth))
    return {"semantic": found}, {"image_id": image_id, "semantic": known}


def random_images(seed: int, count: int = 7, labels: int = 6) -> list[Image]:
    """Mostly correct maps of many sizes with ignored pixels; one image is all ignored, the last class is absent."""
    rng = np.random.default_rng(seed)
    images = []
    for image_id in range(count):
        size = tuple(rng.integers(5, 60, 2))
        coarse = rng.integers(0, labels - 1, (8, 8)).astype(np.uint8)
        truth = cv2.resize(coarse, size[::-1], interpolation=cv2.INTER_NEAREST)
        noise = rng.integers(0, labels - 1, size)
        prediction = np.where(rng.random(size) < 0.7, np.roll(truth, 1, 0), noise)
        truth[rng.random(size) < 0.1] = 255
        images.append(image(image_id, np.full(size, 255) if image_id == 3 else truth, prediction))
    return images


def evaluated(images: list[Image], count: int, batch: int = 2, **options: Any) -> SemanticSegmentation:
    return updated(SemanticSegmentation(classes(count), **options), images, batch)


def test_255_classes_with_predictions_of_no_class():
    """255 is "ignored" in the ground truth and "another class" in the prediction. IoU by sets of pixels."""
    rng = np.random.default_rng(0)
    truth = np.kron(rng.integers(0, 256, (12, 12)), np.ones((6, 6), int))
    prediction = np.where(rng.random(truth.shape) < 0.7, truth, rng.integers(0, 256, truth.shape))
    truth[:6, :30], prediction[30:33] = 255, 255
    evaluator = evaluated([image(1, truth, prediction)], 255, boundary=True)
    metrics = evaluator.metrics()
    known = truth != 255
    assert metrics["aAcc"] == (truth == prediction)[known].mean()
    for n in range(255):
        union = known & ((truth == n) | (prediction == n))
        iou = (known & (truth == n) & (prediction == n)).sum() / union.sum() if union.any() else math.nan
        assert metrics[f"IoU/class {n}"] == pytest.approx(iou, nan_ok=True)
    counts = evaluator.counts(evaluator.records)
    assert counts[:255].sum() == known.sum() and not counts[255].any()


def test_boundary_iou_matches_the_paper():
    ratio = 0.08
    images = random_images(12)[:2]  # noise: every pixel is boundary
    for image_id in range(2, 6):
        regions = np.random.default_rng(image_id).integers(0, 5, (4, 3)).astype(np.uint8)
        truth = cv2.resize(regions, (90 + 7 * image_id, 120), interpolation=cv2.INTER_NEAREST)
        prediction = np.roll(truth, image_id, axis=(0, 1))
        truth[50:70, 20:90] = 255
        images.append(image(image_id, truth, prediction))
    intersection, union = np.zeros(6), np.zeros(6)
    for found, truth in images:
        known, seen = truth["semantic"].numpy(), found["semantic"].numpy()
        for n in range(6):
            a, b = (near_boundary((labels == n) & (known != 255), ratio) for labels in (known, seen))
            intersection[n] += (a & b).sum()
            union[n] += (a | b).sum()
    metrics = evaluated(images, 6, boundary=ratio).metrics()
    expected = intersection[:5] / union[:5]
    assert [metrics[f"BIoU/class {n}"] for n in range(5)] == pytest.approx(expected.tolist(), abs=1e-15)
    assert metrics["mBIoU"] == pytest.approx(expected.mean()) and math.isnan(metrics["BIoU/class 5"])
    assert 0.1 < metrics["mBIoU"] < metrics["mIoU"] - 0.03
    assert list(metrics)[:6] == ["mIoU", "mAcc", "aAcc", "fwIoU", "mBIoU", "IoU/class 0"]


@pytest.mark.parametrize("count", [3, 254])
def test_pixels_of_other_classes_are_wrong(count: int):
    """255 in the prediction, by hand: one of four pixels; in the tables after all classes, only if there are any."""
    plain, other = (evaluated([image(1, [[0, 0, 1, 255]], [[0, x, 1, 255]])], count, boundary=True) for x in (1, 255))
    assert other.metrics()["aAcc"] == plain.metrics()["aAcc"] == 2 / 3
    assert [other.metrics()[f"{name}/class 1"] for name in ("IoU", "BIoU")] == [1, 1]
    assert [plain.metrics()[f"{name}/class 1"] for name in ("IoU", "BIoU")] == [1 / 2, 1 / 2]
    assert tables_of(other)["confusion"][0][-1] == "other classes" and tables_of(other)["confusion"][1][-1] == 1
    assert len(tables_of(plain)["confusion"]) == count + 1
    with pytest.raises(DataError, match=f"Image 2: `semantic` of its prediction is {count} in 1 pixels"):
        other.update(*zip(image(2, [[0, 0, 1, 255]], [[0, 255, count, 0]]), strict=True))


def test_class_table_and_image_scores():
    """By hand: class 2 is only predicted; the second image has one unlabelled pixel, with a value of no class."""
    evaluator = evaluated([image("a", [[0, 0, 1, 1]], [[0, 1, 1, 2]]), image("b", [[1, 255]], [[1, 200]])], 3)
    metrics = evaluator.metrics()
    assert metrics["IoU/class 2"] == 0 and metrics["mIoU"] == pytest.approx((1 / 2 + 2 / 4 + 0) / 3)
    assert math.isnan(metrics["Acc/class 2"]) and metrics["mAcc"] == pytest.approx((1 / 2 + 2 / 3) / 2)
    assert metrics["aAcc"] == 3 / 5 and metrics["fwIoU"] == pytest.approx(2 / 5 * 1 / 2 + 3 / 5 * 2 / 4)
    assert list(metrics)[:5] == ["mIoU", "mAcc", "aAcc", "fwIoU", "IoU/class 0"] and evaluator.main == "mIoU"
    header, *rows = tables_of(evaluator)["classes"]
    assert header == ["class", "pixels", "IoU", "recall", "precision"]
    assert [row[1] for row in rows] == [2, 3, 0]
    np.testing.assert_allclose([row[2:] for row in rows], [[1 / 2, 1 / 2, 1], [2 / 4, 2 / 3, 2 / 3], [0, math.nan, 0]])
    assert image_scores_of(evaluator) == {"a": pytest.approx((1 / 2 + 1 / 3 + 0) / 3), "b": 1}
    assert evaluator.compute([evaluator.record(*image("c", [[0, 1]], [[0, 0]]))])["aAcc"] == 1 / 2
