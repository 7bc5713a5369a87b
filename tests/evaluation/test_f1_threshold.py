"""The score threshold with the largest F1, against counts of pycocotools' matches."""

import contextlib
import io

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from densevit.evaluation.coco_ap import CocoDetection
from densevit.evaluation.f1_threshold import best_threshold
from tests.evaluation.coco_reference import CLASSES, as_json, updated
from tests.evaluation.evaluated import plots_of
from tests.evaluation.test_coco_ap import crowded, messy


def counted(pairs, thresholds):
    """F1 of each threshold: of the matches at an IoU of 0.5, those of at least this score."""
    truth, results = as_json(pairs)
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = truth
        coco.createIndex()
        matched = COCOeval(coco, coco.loadRes(results), "bbox")
        vars(matched.params).update(iouThrs=np.array([0.5]), areaRng=[[0, 1e10]], areaRngLbl=["all"])
        matched.evaluate()
    images = [one for one in matched.evalImgs if one]
    scores = np.concatenate([one["dtScores"] for one in images]).astype(np.float32)
    hits, ignored = (np.concatenate([one[key][0] for one in images]) > 0 for key in ("dtMatches", "dtIgnore"))
    objects = sum(int((1 - one["gtIgnore"]).sum()) for one in images)
    kept = [(scores >= np.float32(threshold)) & ~ignored for threshold in thresholds]
    return [2 * (hits & shown).sum() / (shown.sum() + objects) for shown in kept]


def evaluated(pairs):
    return updated(CocoDetection(CLASSES), pairs)


@pytest.mark.parametrize("pairs", [messy(1, 40), crowded(3)], ids=["ties", "many"])
def test_it_is_the_best_of_all_scores(pairs):
    thresholds = sorted({score for found, _ in pairs for score in found["scores"].tolist()}, reverse=True)
    expected = counted(pairs, thresholds)
    evaluator = evaluated(pairs)
    found = evaluator.score_threshold(evaluator.records)
    assert found == thresholds[int(np.argmax(expected))]
    assert counted(pairs, [found]) == [max(expected)]


def test_the_curves_are_the_f1_of_each_threshold():
    pairs = messy(5, 40)
    plots = plots_of(evaluated(pairs))
    [(name, points)] = plots["F1 by score"].curves.items()
    steps = [x for x, _ in points]
    assert name == "all classes" and steps == [n / 100 for n in range(101)]
    assert [y for _, y in points] == pytest.approx(counted(pairs, steps))
    assert sorted(plots["F1 by score of classes"].curves) == [c.name for c in CLASSES[:5]]  # the last has no objects


def test_few_objects_or_no_hit_give_none():
    scores, correct = np.array([0.9, 0.4]), np.array([True, False])
    assert [best_threshold(scores, correct, count) for count in (49, 50)] == [None, 0.9]
    assert best_threshold(scores, ~correct & False, 50) is best_threshold(np.zeros(0), np.zeros(0, bool), 50) is None
    assert CocoDetection(CLASSES).score_threshold(()) is None and plots_of(CocoDetection(CLASSES)) == {}
