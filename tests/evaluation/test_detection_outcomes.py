"""The outcomes of detections by hand; their effect on AP is compared with tidecv's in test_error_analysis.py."""

import numpy as np

from densevit.evaluation.detection_outcomes import (
    BOTH,
    CLASSIFICATION,
    CORRECT,
    DUPLICATE,
    LOCALISATION,
    ON_BACKGROUND,
    UNLABELLED,
    classify,
)


def test_each_kind_of_error():
    """Of three objects of the classes 0, 1 and 0; a detection overlaps one of them at most."""
    labels, truth_labels, ious = np.array([0, 0, 1, 1, 0, 0]), np.array([0, 1, 0]), np.zeros((6, 3))
    ious[range(6), [0, 0, 2, 1, 1, 0]] = 0.9, 0.7, 0.6, 0.3, 0.3, 0.05
    on_crowd = np.array([True, False, False, False, False, True])
    found = classify(labels, truth_labels, ious, on_crowd, on_crowd & False, np.linspace(0.9, 0.1, 6))
    assert found.kinds.tolist() == [CORRECT, DUPLICATE, CLASSIFICATION, LOCALISATION, BOTH, ON_BACKGROUND]
    assert found.matches.tolist() == [0, -1, -1, -1, -1, -1] and found.ignored.tolist() == [False] * 5 + [True]
    assert found.fixed.tolist() == [False, False, True, True, False, False]
    assert found.targets[2:4].tolist() == [2, 1] and found.fixed_labels[2:4].tolist() == [0, 1]
    partial = classify(labels, truth_labels, ious, on_crowd & False, ~on_crowd, found.scores)
    assert partial.kinds.tolist() == [CORRECT, *[UNLABELLED] * 4, ON_BACKGROUND] and not partial.fixed.any()
