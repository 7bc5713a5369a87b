"""Which epoch is the best, from the metrics of some."""

import math

import pytest

from densevit.evaluation.coco import CocoDetection
from densevit.evaluation.depth import DepthErrors
from densevit.evaluation.miou import SemanticSegmentation
from densevit.interfaces import Class, Evaluator
from densevit.training.best_epoch import BestEpoch, share

CLASSES = (Class("ball", 1, (0, 0, 0)),)
DEPTH, DETECTION, MAPS = DepthErrors(()), CocoDetection(CLASSES), SemanticSegmentation(CLASSES)


def best(epochs: list[dict[str, float]], monitor: str | None = None, **evaluators: Evaluator) -> int:
    """The number of the best of some epochs."""
    chooser = BestEpoch(evaluators, monitor)
    return max(n for n, metrics in enumerate(epochs) if chooser.improves(metrics))


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


def test_of_equal_epochs_the_first_is_the_best():
    assert best([{"boxes/AP": 0.3}] * 3, boxes=DETECTION) == 0
    assert best([{"boxes/AP": 0.3, "depth/AbsRel": 0.1}] * 3, boxes=DETECTION, depth=DEPTH) == 0


# ---- several heads ----


@pytest.mark.parametrize(
    ("value", "reached", "is_error", "expected"),
    [
        (0.3, 0.4, False, 0.75),
        (0.4, 0.3, True, 0.75),
        (0.0, 0.4, False, 0.0),
        (0.3, 0.0, True, 0.0),
        (0.0, 0.0, True, 1.0),
        (0.0, 0.0, False, 1.0),
        (0.001, 0.003, False, 0.98),  # of a tenth
        (0.001, 0.003, True, 1 / 3),
        (30.0, 40.0, False, 0.75),  # a score that is no fraction, in decibels for one
        (-2.0, -1.0, False, 0.5),
        (-1.0, 1.0, False, 0.0),
        (math.nan, 0.4, False, 0.0),
        (math.inf, 0.4, True, 0.0),
    ],
)
def test_a_share_is_how_near_a_metric_comes_to_its_best(value: float, reached: float, is_error: bool, expected: float):
    assert share(value, reached, is_error) == pytest.approx(expected)


def test_of_several_heads_the_epoch_at_which_all_are_near_their_best():
    """Shares of AP, up to 0.3, and of AbsRel, down to 0.2: 1/3 and 1/2, 2/3 and 1, 1 and 1/4."""
    epochs = [
        {"boxes/AP": 0.1, "depth/AbsRel": 0.4},
        {"boxes/AP": 0.2, "depth/AbsRel": 0.2},
        {"boxes/AP": 0.3, "depth/AbsRel": 0.8},
    ]
    assert best(epochs, boxes=DETECTION, depth=DEPTH) == 1


@pytest.mark.parametrize("first", [0.0, 1e-9, 0.001, math.nan])
def test_a_first_value_of_next_to_nothing_weighs_nothing_afterwards(first: float):
    """Over its first value of 0.001, AP would count 500 and 502 times, and the label map's loss not at all."""
    epochs = [
        {"boxes/AP": first, "maps/mIoU": 0.1},
        {"boxes/AP": 0.500, "maps/mIoU": 0.6},
        {"boxes/AP": 0.502, "maps/mIoU": 0.3},
    ]
    assert best(epochs, boxes=DETECTION, maps=MAPS) == 1


@pytest.mark.parametrize("first", [0.0, 1e6, math.inf, math.nan])
def test_nor_does_a_first_error_of_any_size(first: float):
    epochs = [
        {"boxes/AP": 0.5, "depth/AbsRel": first},
        {"boxes/AP": 0.5, "depth/AbsRel": 0.3},
        {"boxes/AP": 0.49, "depth/AbsRel": 0.2},
        {"boxes/AP": 0.1, "depth/AbsRel": 0.19},
    ]
    assert best(epochs, boxes=DETECTION, depth=DEPTH) == (0 if first == 0 else 2)


def test_the_noise_of_a_head_that_learns_nothing_decides_nothing():
    epochs = [{"boxes/AP": 0.001, "maps/mIoU": 0.6}, {"boxes/AP": 0.003, "maps/mIoU": 0.5}]
    assert best(epochs, boxes=DETECTION, maps=MAPS) == 0


def test_a_head_that_is_never_measured_leaves_the_choice_to_the_others():
    epochs = [{"boxes/AP": math.nan, "maps/mIoU": value} for value in (0.2, 0.4, 0.3)]
    assert best(epochs, boxes=DETECTION, maps=MAPS) == 1


def test_where_nothing_is_measured_the_latest_epoch_is_kept():
    assert best([{"boxes/AP": math.nan}] * 3, boxes=DETECTION) == 2
    assert best([{"boxes/AP": math.nan, "maps/mIoU": math.nan}] * 2, boxes=DETECTION, maps=MAPS) == 1


def test_an_epoch_in_which_a_head_breaks_down_is_not_the_best():
    epochs = [
        {"boxes/AP": 0.3, "maps/mIoU": 0.6, "depth/AbsRel": 0.10},
        {"boxes/AP": 0.4, "maps/mIoU": 0.7, "depth/AbsRel": math.nan},
    ]
    assert best(epochs, boxes=DETECTION, maps=MAPS, depth=DEPTH) == 0


def test_a_tenth_of_one_head_is_a_tenth_of_another():
    """AP falls by a tenth, and AbsRel by a fifth: better. AbsRel by a twentieth: worse."""
    for error, expected in ((0.08, 1), (0.095, 0)):
        epochs = [{"boxes/AP": 0.5, "depth/AbsRel": 0.1}, {"boxes/AP": 0.45, "depth/AbsRel": error}]
        assert best(epochs, boxes=DETECTION, depth=DEPTH) == expected


def test_it_goes_on_from_a_checkpoint_as_it_was():
    evaluators: dict[str, Evaluator] = {"boxes": DETECTION, "depth": DEPTH}
    epochs = [
        {"boxes/AP": 0.2, "depth/AbsRel": 0.2},
        {"boxes/AP": 0.4, "depth/AbsRel": 0.5},
        {"boxes/AP": 0.3, "depth/AbsRel": 0.21},
    ]
    whole, first, second = (BestEpoch(evaluators, None) for _ in range(3))
    expected = [whole.improves(metrics) for metrics in epochs]
    assert [first.improves(metrics) for metrics in epochs[:2]] == expected[:2]
    second.load_state_dict(first.state_dict())
    assert second.improves(epochs[2]) == expected[2] and second.best == whole.best and second.reached == whole.reached
