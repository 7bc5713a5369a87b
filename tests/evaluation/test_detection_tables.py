"""Curves of precision against recall."""

import numpy as np

from densevit.evaluation.detection_tables import precision_recall
from densevit.interfaces import Class


def test_of_many_classes_the_best_five_and_the_worst_five_have_a_curve():
    """The class 0 has no objects, whose precision is -1."""
    classes = [Class(str(k), k, (0, 0, 0)) for k in range(13)]
    precision = np.broadcast_to(np.arange(13) / 20, (10, 101, 13)).copy()
    precision[..., 0] = -1
    plots = precision_recall(precision, classes)
    assert list(plots) == ["precision-recall", "precision-recall of classes"]
    assert [*plots["precision-recall of classes"].curves] == ["12", "11", "10", "9", "8", "5", "4", "3", "2", "1"]
    assert precision_recall(precision[..., :1], classes[:1]) == {}
