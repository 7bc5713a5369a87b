"""Whether lower is better: every metric of every evaluator, in trainings and on pages."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import pytest

import densevit
from densevit.evaluation.depth_alignment import Alignment
from densevit.interfaces import Class, Evaluator
from densevit.training.callbacks.best_epoch import BestEpoch
from densevit.training.loop.evaluator_factory import ValidationLoss
from tools.conventions.results import direction

CLASSES = (Class("a/b", 1, (1, 1, 1)), Class("c", 2, (2, 2, 2)))
# As the papers define them: Eigen et al. 2014 (depth), Fouhey et al. 2013 (angles of normals); a loss is minimised.
ERRORS = r"AbsRel|SqRel|RMSE|RMSElog|log10|SILog|mean|median|loss"
SCORES = r"(mask_)?A[PR]\w*|[mf]?w?IoU|[ma]?Acc|top\d|[PSR]Q(_\w+)?|delta_?[\d.]+|within_\d+|recall\d+"
ROOT = Path(__file__).parents[2]


def evaluators() -> Iterator[Evaluator]:
    yield ValidationLoss(CLASSES)  # of heads with `evaluation: null`, and of methods
    yield from (densevit.create_evaluator(name, CLASSES) for name in densevit.list_plugins("evaluators"))
    yield from (densevit.create_evaluator("depth", align=align, per_pixel=True) for align in get_args(Alignment))


def metrics() -> Iterator[tuple[Evaluator, str]]:
    for evaluator in evaluators():
        yield from ((evaluator, metric) for metric in evaluator.metrics())


def is_error(metric: str) -> bool:
    base = re.sub(r"(_aligned_\w+?)?(_pixel)?(/.*)?$", "", metric)
    assert bool(re.fullmatch(ERRORS, base)) != bool(re.fullmatch(SCORES, base)), f"{metric}: which direction?"
    return bool(re.fullmatch(ERRORS, base))


@pytest.mark.parametrize("beside_a_head", [False, True])
def test_the_best_epoch_and_patience_follow_the_direction_of_every_metric(beside_a_head: bool) -> None:
    heads = {"seg": densevit.create_evaluator("segmentation", CLASSES)} if beside_a_head else {}
    for evaluator, metric in metrics():
        best = BestEpoch(heads | {"h": evaluator}, f"h/{metric}")
        improved = [best.improves({"seg/mIoU": 0.5, f"h/{metric}": value}) for value in (0.3, 0.2, 0.4, 0.1)]
        assert improved == ([True, True, False, True] if is_error(metric) else [True, False, True, False]), metric
        assert best.exhausts(1) != is_error(metric), metric


def test_the_results_of_runs_on_the_pages_have_the_directions_of_their_evaluators() -> None:
    trainings = json.loads((ROOT / "docs" / "results.json").read_text(encoding="utf-8"))["trainings"].values()
    names = {name for training in trainings for name in training.get("scores", {})}
    assert {name: direction(name) for name in names} == {n: -1 if is_error(n.split("/")[1]) else 1 for n in names}
