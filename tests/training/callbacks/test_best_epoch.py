"""Selection of the best epoch from metrics."""

import math

import pytest

from densevit.evaluation.coco import CocoDetection
from densevit.evaluation.depth import DepthErrors
from densevit.evaluation.miou import SemanticSegmentation
from densevit.interfaces import Class, Evaluator
from densevit.training.callbacks.best_epoch import BestEpoch, share

CLASSES = (Class("ball", 1, (0, 0, 0)),)
DEPTH, DETECTION, MAPS = DepthErrors(()), CocoDetection(CLASSES), SemanticSegmentation(CLASSES)


def best(epochs: list[dict[str, float]], monitor: str | None = None, **evaluators: Evaluator) -> int:
    """Index of the best epoch."""
    chooser = BestEpoch(evaluators, monitor)
    return max(n for n, metrics in enumerate(epochs) if chooser.improves(metrics))


def test_lowest_depth_error_is_best():
    assert best([{"depth/AbsRel": error} for error in (0.3, 0.1, 0.2)], depth=DEPTH) == 1


def test_highest_box_precision_is_best():
    assert best([{"boxes/AP": precision} for precision in (0.3, 0.1, 0.4)], boxes=DETECTION) == 2


@pytest.mark.parametrize(("monitor", "expected"), [("depth/RMSE", 0), ("depth/delta1", 1), (None, 2)])
def test_lowest_monitored_error_is_best(monitor: str | None, expected: int):
    epochs = [
        {"depth/AbsRel": 0.3, "depth/RMSE": 1.0, "depth/delta1": 0.5},
        {"depth/AbsRel": 0.2, "depth/RMSE": 3.0, "depth/delta1": 0.9},
        {"depth/AbsRel": 0.1, "depth/RMSE": 2.0, "depth/delta1": 0.8},
    ]
    assert best(epochs, monitor, depth=DEPTH) == expected


def test_unknown_error_is_worst():
    assert best([{"depth/AbsRel": math.nan}, {"depth/AbsRel": 9.0}], depth=DEPTH) == 1


def test_first_of_equal_epochs_is_best():
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
        (0.001, 0.003, False, 0.98),  # relative to 0.1
        (0.001, 0.003, True, 1 / 3),
        (30.0, 40.0, False, 0.75),  # a score that is not a fraction, e.g. in decibels
        (-2.0, -1.0, False, 0.5),
        (-1.0, 1.0, False, 0.0),
        (math.nan, 0.4, False, 0.0),
        (math.inf, 0.4, True, 0.0),
    ],
)
def test_share_is_the_ratio_to_the_best_value(value: float, reached: float, is_error: bool, expected: float):
    assert share(value, reached, is_error) == pytest.approx(expected)


def test_several_heads_are_compared_by_their_shares():
    """Shares of AP (best 0.3) and of AbsRel (best 0.2): 1/3 and 1/2, 2/3 and 1, 1 and 1/4."""
    epochs = [
        {"boxes/AP": 0.1, "depth/AbsRel": 0.4},
        {"boxes/AP": 0.2, "depth/AbsRel": 0.2},
        {"boxes/AP": 0.3, "depth/AbsRel": 0.8},
    ]
    assert best(epochs, boxes=DETECTION, depth=DEPTH) == 1


@pytest.mark.parametrize("first", [0.0, 1e-9, 0.001, math.nan])
def test_small_first_value_does_not_dominate(first: float):
    """Relative to its first value of 0.001, AP would count 500 and 502 times and outweigh mIoU."""
    epochs = [
        {"boxes/AP": first, "maps/mIoU": 0.1},
        {"boxes/AP": 0.500, "maps/mIoU": 0.6},
        {"boxes/AP": 0.502, "maps/mIoU": 0.3},
    ]
    assert best(epochs, boxes=DETECTION, maps=MAPS) == 1


@pytest.mark.parametrize("first", [0.0, 1e6, math.inf, math.nan])
def test_first_error_does_not_dominate(first: float):
    epochs = [
        {"boxes/AP": 0.5, "depth/AbsRel": first},
        {"boxes/AP": 0.5, "depth/AbsRel": 0.3},
        {"boxes/AP": 0.49, "depth/AbsRel": 0.2},
        {"boxes/AP": 0.1, "depth/AbsRel": 0.19},
    ]
    assert best(epochs, boxes=DETECTION, depth=DEPTH) == (0 if first == 0 else 2)


def test_noise_of_an_untrained_head_is_ignored():
    epochs = [{"boxes/AP": 0.001, "maps/mIoU": 0.6}, {"boxes/AP": 0.003, "maps/mIoU": 0.5}]
    assert best(epochs, boxes=DETECTION, maps=MAPS) == 0


def test_head_without_metrics_is_ignored():
    epochs = [{"boxes/AP": math.nan, "maps/mIoU": value} for value in (0.2, 0.4, 0.3)]
    assert best(epochs, boxes=DETECTION, maps=MAPS) == 1


def test_without_metrics_the_latest_epoch_is_kept():
    assert best([{"boxes/AP": math.nan}] * 3, boxes=DETECTION) == 2
    assert best([{"boxes/AP": math.nan, "maps/mIoU": math.nan}] * 2, boxes=DETECTION, maps=MAPS) == 1


def test_epoch_with_a_diverged_head_is_not_best():
    epochs = [
        {"boxes/AP": 0.3, "maps/mIoU": 0.6, "depth/AbsRel": 0.10},
        {"boxes/AP": 0.4, "maps/mIoU": 0.7, "depth/AbsRel": math.nan},
    ]
    assert best(epochs, boxes=DETECTION, maps=MAPS, depth=DEPTH) == 0


def test_relative_changes_of_heads_weigh_equally():
    """AP decreases by 10 %: better if AbsRel decreases by 20 %, worse if by 5 %."""
    for error, expected in ((0.08, 1), (0.095, 0)):
        epochs = [{"boxes/AP": 0.5, "depth/AbsRel": 0.1}, {"boxes/AP": 0.45, "depth/AbsRel": error}]
        assert best(epochs, boxes=DETECTION, depth=DEPTH) == expected


def test_epochs_since_the_best_are_counted() -> None:
    chooser, counts = BestEpoch({"depth": DEPTH}, None), []
    for error in (0.3, 0.4, math.nan, 0.2, 0.2, 0.5, 0.1):
        chooser.improves({"depth/AbsRel": error})
        counts.append(chooser.stale)
    assert counts == [0, 1, 2, 0, 1, 2, 0]


def test_state_dict_round_trips():
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
    assert second.stale == first.stale
    assert second.improves(epochs[2]) == expected[2] and second.best == whole.best and second.reached == whole.reached
