"""Matching by both libraries, on three detections of two objects, by hand."""

import numpy as np
import pytest

from densevit.evaluation.backends import OneClass, curves

# Of the first image: a small object, a detection of it and one of nothing; of the second, a large object.
IOUS = np.array([[1.0, 0.0], [0.0, 0.0], [0.0, 0.6]])
DATA = OneClass(
    images=np.array([0, 0, 1]),
    sizes=np.array([100.0, 100.0, 1e4]),
    scores=np.array([0.9, 0.8, 0.7]),
    truth_images=np.array([0, 1]),
    areas=np.array([100.0, 1e4]),
    crowds=np.zeros(2, bool),
    overlaps=lambda detections, truths: IOUS[np.ix_(detections, truths)],
)


@pytest.mark.parametrize("backend", ["pycocotools", "faster-coco-eval"])
def test_precision_and_recall_by_iou_area_and_detections_per_image(backend: str):
    precision, recall = curves(backend, DATA, (1, 100))
    assert precision.shape == (10, 101, 4, 2)
    assert precision[0, [0, 50, 51, 100], 0].tolist() == [[pytest.approx(1)] * 2] * 2 + [[1, pytest.approx(2 / 3)]] * 2
    assert precision[3, [0, 50, 51], 0, 1].tolist() == [pytest.approx(1), pytest.approx(1), 0]  # an IoU of 0.65
    assert recall[[0, 2, 3], 0].tolist() == [[1, 1], [1, 1], [0.5, 0.5]]
    assert recall[0, :, 1].tolist() == [1, 1, -1, 1]  # there is no medium object
