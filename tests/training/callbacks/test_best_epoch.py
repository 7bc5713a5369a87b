"""Selection of the best epoch from metrics."""

import math

import pytest

from densevit.evaluation.coco_ap import CocoDetection
from densevit.evaluation.depth_errors import DepthErrors
from densevit.evaluation.miou import SemanticSegmentation
from densevit.interfaces import Class
from densevit.training.callbacks.best_epoch import BestEpoch

CLASSES = (Class("ball", 1, (0, 0, 0)),)
EVALUATORS = {"depth": DepthErrors(()), "boxes": CocoDetection(CLASSES), "maps": SemanticSegmentation(CLASSES)}
NAN = math.nan


def best(epochs: list[dict[str, float]], monitor: str | None = None) -> int:
    """Index of the best epoch. The heads are those of the metrics."""
    heads = {name.partition("/")[0] for name in epochs[0]}
    chooser = BestEpoch({name: EVALUATORS[name] for name in heads}, monitor)
    return max(n for n, metrics in enumerate(epochs) if chooser.improves(metrics))


def of(**values: list[float]) -> list[dict[str, float]]:
    """The metrics of each epoch, from the main metrics of heads."""
    names = {"depth": "depth/AbsRel", "boxes": "boxes/AP", "maps": "maps/mIoU"}
    return [dict(zip(map(names.get, values), epoch, strict=True)) for epoch in zip(*values.values(), strict=True)]


@pytest.mark.parametrize(
    ("epochs", "expected"),
    [
        (of(depth=[0.3, 0.1, 0.2]), 1),  # an error
        (of(boxes=[0.3, 0.1, 0.4]), 2),
        (of(depth=[NAN, 9.0]), 1),
        (of(boxes=[0.3] * 3), 0),  # the first of equal ones
        (of(boxes=[0.3] * 3, depth=[0.1] * 3), 0),
        (of(boxes=[NAN] * 3), 2),  # without metrics, the latest
        (of(boxes=[NAN] * 2, maps=[NAN] * 2), 1),
        (of(boxes=[NAN] * 3, maps=[0.2, 0.4, 0.3]), 1),  # a head without metrics is ignored
        # Shares of AP (best 0.3) and of AbsRel (best 0.2): 1/3 and 1/2, 2/3 and 1, 1 and 1/4.
        (of(boxes=[0.1, 0.2, 0.3], depth=[0.4, 0.2, 0.8]), 1),
        (of(boxes=[0.001, 0.003], maps=[0.6, 0.5]), 0),  # noise of an untrained head
        (of(boxes=[0.3, 0.4], maps=[0.6, 0.7], depth=[0.10, NAN]), 0),  # a head has diverged
        # AP decreases by 10 %: better if AbsRel decreases by 20 %, worse if by 5 %.
        (of(boxes=[0.5, 0.45], depth=[0.1, 0.08]), 1),
        (of(boxes=[0.5, 0.45], depth=[0.1, 0.095]), 0),
        # Relative to a small first value, AP would count 500 and 502 times and outweigh mIoU; or an error of 0.
        *((of(boxes=[first, 0.500, 0.502], maps=[0.1, 0.6, 0.3]), 1) for first in (0.0, 0.001, NAN)),
        *((of(boxes=[0.5, 0.5, 0.49, 0.1], depth=[first, 0.3, 0.2, 0.19]), 2) for first in (1e6, math.inf, NAN)),
        (of(boxes=[0.5, 0.5, 0.49, 0.1], depth=[0.0, 0.3, 0.2, 0.19]), 0),
    ],
)
def test_the_best_epoch_has_the_largest_shares_of_the_best_values(epochs: list[dict[str, float]], expected: int):
    assert best(epochs) == expected


@pytest.mark.parametrize(("monitor", "expected"), [("depth/RMSE", 0), ("depth/delta1", 1), (None, 2)])
def test_lowest_monitored_error_is_best(monitor: str | None, expected: int):
    epochs = [
        {"depth/AbsRel": 0.3, "depth/RMSE": 1.0, "depth/delta1": 0.5},
        {"depth/AbsRel": 0.2, "depth/RMSE": 3.0, "depth/delta1": 0.9},
        {"depth/AbsRel": 0.1, "depth/RMSE": 2.0, "depth/delta1": 0.8},
    ]
    assert best(epochs, monitor) == expected
