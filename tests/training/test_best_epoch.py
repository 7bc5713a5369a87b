"""Which epoch is the best, from the metrics of some."""

import math
from pathlib import Path

import pytest

from densevit.evaluation.coco import CocoDetection
from densevit.evaluation.depth import DepthErrors
from densevit.interfaces import Class, Evaluator
from densevit.training.evaluation import Evaluation
from densevit.training.run_folder import RunFolder

CLASSES = (Class("ball", 1, (0, 0, 0)),)
DEPTH, DETECTION = DepthErrors(()), CocoDetection(CLASSES)


def best(epochs: list[dict[str, float]], monitor: str | None = None, **evaluators: Evaluator) -> int:
    """The number of the best of some epochs."""
    files = RunFolder(Path(), Evaluation(evaluators), monitor, None)
    scores = [files._score(metrics) for metrics in epochs]
    return scores.index(max(scores))


def test_of_depth_the_least_error_is_the_best():
    assert best([{"depth/AbsRel": error} for error in (0.3, 0.1, 0.2)], depth=DEPTH) == 1


def test_of_boxes_the_highest_precision_is_the_best():
    assert best([{"boxes/AP": precision} for precision in (0.3, 0.1, 0.4)], boxes=DETECTION) == 2


@pytest.mark.parametrize(("monitor", "expected"), [("depth/RMSE", 0), ("depth/delta1", 1), (None, 2)])
def test_a_monitored_error_is_best_when_it_is_least(monitor: str | None, expected: int):
    epochs = [
        {"depth/AbsRel": 0.3, "depth/RMSE": 1.0, "depth/delta1": 0.5},
        {"depth/AbsRel": 0.2, "depth/RMSE": 3.0, "depth/delta1": 0.9},
        {"depth/AbsRel": 0.1, "depth/RMSE": 2.0, "depth/delta1": 0.8},
    ]
    assert best(epochs, monitor, depth=DEPTH) == expected


def test_an_error_that_is_not_known_is_the_worst():
    assert best([{"depth/AbsRel": math.nan}, {"depth/AbsRel": 9.0}], depth=DEPTH) == 1


def test_of_several_heads_each_counts_relative_to_its_first_value():
    """To the first epoch's, AP is 2 and 3 times as high, and the error 0.5 and 2 times: 2 - 0.5 is more than 3 - 2."""
    epochs = [
        {"boxes/AP": 0.1, "depth/AbsRel": 0.4},
        {"boxes/AP": 0.2, "depth/AbsRel": 0.2},
        {"boxes/AP": 0.3, "depth/AbsRel": 0.8},
    ]
    assert best(epochs, boxes=DETECTION, depth=DEPTH) == 1
