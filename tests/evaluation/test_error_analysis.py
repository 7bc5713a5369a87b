"""The error types of TIDE, on cases that can be checked by eye. COUNTS and GAINS are those of tidecv 1.0.1."""

import math

import numpy as np
import pytest
import torch

from densevit.evaluation.coco_ap import CocoDetection
from densevit.evaluation.detection_tables import class_table
from densevit.interfaces import Class
from tests.evaluation.coco_reference import updated
from tests.evaluation.evaluated import image_scores_of, plots_of, tables_of

CLASSES = [Class(name, n + 1, (0, 0, 0)) for n, name in enumerate(("cat", "dog", "fox"))]
BOX = (0, 0, 100, 100)
FAR = (200, 200, 300, 300)

GAINS = [29.7007150602, 4.4304994362, 1.8509224487, 2.8501991057, 0.0, 1.2524329356, 31.6086114966, 12.524329356]


def image(image_id, truth, found):
    """truth: (box, label) or (box, label, True) for crowds. found: (box, label, score)."""
    boxes = torch.tensor([one[0] for one in truth], dtype=torch.float64).reshape(-1, 4)
    crowds = torch.tensor([len(one) > 2 for one in truth], dtype=torch.bool)
    known = {"image_id": image_id, "boxes": boxes, "iscrowd": crowds}
    known["labels"] = torch.tensor([one[1] for one in truth], dtype=torch.int64)
    predicted = {"boxes": torch.tensor([one[0] for one in found], dtype=torch.float64).reshape(-1, 4)}
    predicted["labels"] = torch.tensor([one[1] for one in found], dtype=torch.int64)
    predicted["scores"] = torch.tensor([one[2] for one in found], dtype=torch.float64)
    return predicted, known


def evaluated(*images):
    return updated(CocoDetection(CLASSES), images)


def errors(*images):
    return {name: (gain, count) for name, gain, count in tables_of(evaluated(*images))["errors"][1:]}


def test_detections_on_crowds_and_classes_without_ground_truth_do_not_count():
    kinds = errors(image(1, [(BOX, 0), (FAR, 0, True)], [(BOX, 0, 0.9), ((210, 210, 250, 250), 0, 0.95)]))
    assert kinds["false positives"] == (0, 0) and kinds["background"] == (0, 1)
    kinds = errors(image(1, [(BOX, 0)], [(BOX, 0, 0.9), (FAR, 2, 0.9)]))
    assert all(gain == 0 for gain, _ in kinds.values()) and kinds["background"][1] == 1
    assert math.isnan(errors(image(1, [], [(FAR, 2, 0.9)]))["false positives"][0])


def test_without_detections_no_value_is_the_best():
    found = evaluated(image(1, [(BOX, 0), (FAR, 1)], []))
    metrics = found.metrics()
    assert all(math.isnan(value) or value == 0 for value in metrics.values()) and metrics["AP"] == 0
    assert image_scores_of(found) == {1: 0}
    assert [row[1:] for row in tables_of(found)["confusion"][1:]] == [[0, 0, 0, 1], [0, 0, 0, 1], [0] * 4, [0] * 4]


def test_image_scores_are_the_quality_of_shown_detections():
    scores = image_scores_of(
        evaluated(
            image("right", [(BOX, 0)], [(BOX, 0, 0.9)]),
            image("loose", [(BOX, 0)], [((0, 0, 100, 80), 0, 0.9), (FAR, 0, 0.3)]),
            image("extra", [(BOX, 0)], [(BOX, 0, 0.9), (FAR, 0, 0.8)]),
            image("missed", [(BOX, 0)], []),
            image("empty", [], []),
        )
    )
    assert scores == {"right": 1, "loose": pytest.approx(0.8), "extra": pytest.approx(1 / 1.5), "missed": 0}


def random_images(seed, count=20):
    rng = np.random.default_rng(seed)
    images = []
    for n in range(count):
        corners = rng.random((rng.integers(0, 6), 2)) * 300
        boxes = np.concatenate([corners, corners + 30 + 80 * rng.random(corners.shape)], axis=1)
        labels = rng.integers(0, 3, len(boxes))
        found = [
            *(
                ((box + rng.normal(0, 15 * rng.random(), 4)).tolist(), int(rng.integers(0, 3)), rng.random())
                for box in boxes
            ),
            *((box.tolist(), int(label), rng.random()) for box, label in zip(boxes + 4, labels, strict=True) if label),
        ]
        images.append(image(n, list(zip(boxes.tolist(), labels.tolist(), strict=True)), found))
    return images


def test_a_random_case_equals_tidecv():
    names = ["classification", "localisation", "both", "duplicate", "background", "missed"]
    kinds = errors(*random_images(0))
    assert [kinds[name][1] for name in names] == [22, 8, 4, 8, 0, 2]
    np.testing.assert_allclose([100 * kinds[name][0] for name in (*names, "false positives", "false negatives")], GAINS)


def test_class_tables_and_curves_hold_the_metrics():
    evaluator = evaluated(*random_images(3))
    metrics, table = evaluator.metrics(), tables_of(evaluator)["classes"]
    assert table[0] == ["class", "objects", "predictions", "AP", "AP50", "AP75", "APs", "APm", "APl", "AR100"]
    assert [row[3] for row in table[1:]] == [metrics[f"AP/{c.name}"] for c in CLASSES]
    for column, name in enumerate(("AP50", "AP75"), start=4):
        assert np.mean([row[column] for row in table[1:]]) == pytest.approx(metrics[name])
    plots = plots_of(evaluator)
    for name, curve in (("AP50", "IoU 0.50"), ("AP75", "IoU 0.75"), ("AP", "mean of IoU 0.50 to 0.95")):
        values = [y for _, y in plots["precision-recall"].curves[curve]]
        assert len(values) == 101 and np.mean(values) == pytest.approx(metrics[name])


def test_class_tables_are_of_the_most_detections_of_an_image():
    """At 6 IoUs and 2 recalls, of a class, 4 areas and 2 limits of detections; values in hundredths."""
    precision, recall = np.arange(96).reshape(6, 2, 1, 4, 2) / 100, np.arange(48).reshape(6, 1, 4, 2) / 100
    _, row = class_table(precision, recall, CLASSES[:1], np.array([3]), np.array([7]), 100)
    assert row == [CLASSES[0].name, 3, 7, *(pytest.approx(x / 100) for x in (45, 5, 85, 47, 49, 51, 21))]
