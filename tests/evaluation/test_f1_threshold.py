"""The score threshold with the largest F1, against brute force: each threshold is applied, and the rest is matched."""

import numpy as np
import pytest

from densevit.evaluation.coco import CocoDetection
from densevit.evaluation.f1_threshold import best_threshold, f1_by_score
from tests.evaluation.coco_reference import CLASSES, updated
from tests.evaluation.test_coco import crowded, messy


def iou(a, b):
    w, h = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    common = max(w, 0.0) * max(h, 0.0)
    return common / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - common)


def true_and_false_positives(found, truth, threshold, label=None):
    """Of one image, by greedy matching of the remaining detections in the order of their scores."""
    rows = [n for n in range(len(found["scores"])) if found["scores"][n] >= threshold]
    rows = sorted(rows, key=lambda n: -found["scores"][n].item())[:100]
    crowd, labels = truth["iscrowd"].tolist(), truth["labels"].tolist()
    boxes, free = truth["boxes"].tolist(), set(range(len(labels)))
    hits = misses = 0
    for n in rows:
        own, box = found["labels"][n].item(), found["boxes"][n].tolist()
        if label is not None and own != label:
            continue
        best = max(
            (k for k in free if labels[k] == own and not crowd[k]), key=lambda k: iou(box, boxes[k]), default=None
        )
        if best is not None and iou(box, boxes[best]) >= 0.5:
            hits += 1
            free.discard(best)
            continue
        area = (box[2] - box[0]) * (box[3] - box[1])
        on_crowd = False
        for k in range(len(labels)):
            if crowd[k] and labels[k] == own:
                b = boxes[k]
                w, h = min(box[2], b[2]) - max(box[0], b[0]), min(box[3], b[3]) - max(box[1], b[1])
                on_crowd |= max(w, 0.0) * max(h, 0.0) / area > 0.5
        misses += not on_crowd
    return hits, misses


def brute_force(pairs, thresholds, label=None):
    """F1 of each threshold."""
    objects = sum(
        not crowd and label in (None, own)
        for _, truth in pairs
        for crowd, own in zip(truth["iscrowd"].tolist(), truth["labels"].tolist(), strict=True)
    )
    values = []
    for threshold in thresholds:
        counts = [true_and_false_positives(found, truth, threshold, label) for found, truth in pairs]
        hits, misses = sum(c[0] for c in counts), sum(c[1] for c in counts)
        values.append(2 * hits / (hits + misses + objects))
    return values


def evaluated(pairs):
    return updated(CocoDetection(CLASSES), pairs)


@pytest.mark.integration
@pytest.mark.parametrize("pairs", [messy(1, 40), crowded(3)], ids=["ties", "many"])
def test_it_is_the_best_of_all_scores(pairs):
    thresholds = sorted({score for found, _ in pairs for score in found["scores"].tolist()}, reverse=True)
    expected = brute_force(pairs, thresholds)
    found = evaluated(pairs).score_threshold()
    assert found == thresholds[int(np.argmax(expected))]
    assert brute_force(pairs, [found]) == [max(expected)]


@pytest.mark.integration
def test_the_curves_are_the_f1_of_each_threshold():
    pairs = messy(5, 40)
    plots = evaluated(pairs).plots()
    [(name, points)] = plots["F1 by score"].curves.items()
    steps = [x for x, _ in points]
    assert name == "all classes" and steps == [n / 100 for n in range(101)]
    assert [y for _, y in points] == pytest.approx(brute_force(pairs, steps))
    by_class = plots["F1 by score of classes"].curves
    assert sorted(by_class) == [c.name for c in CLASSES[:5]]  # the last has no objects
    for n, c in enumerate(CLASSES[:5]):
        assert [y for _, y in by_class[c.name]] == pytest.approx(brute_force(pairs, steps, n))


def test_f1_of_three_detections_by_hand():
    scores, f1 = f1_by_score(np.array([0.5, 0.9, 0.5, 0.2]), np.array([True, True, False, True]), 4)
    assert scores.tolist() == [0.9, 0.5, 0.2]
    assert f1.tolist() == [2 / 5, 4 / 7, 6 / 8]


def test_few_objects_or_no_hit_give_none():
    scores, correct = np.array([0.9, 0.4]), np.array([True, False])
    assert best_threshold(scores, correct, 49) is None
    assert best_threshold(scores, correct, 50) == 0.9
    assert best_threshold(scores, ~correct & False, 50) is None
    assert best_threshold(np.zeros(0), np.zeros(0, bool), 50) is None
    assert CocoDetection(CLASSES).score_threshold() is None and CocoDetection(CLASSES).plots() == {}


def test_results_have_the_detections_that_count():
    """Those of each image and class beyond max_detections change no metric, and are not written."""
    pairs = crowded(1)
    [(found, _)] = pairs[-1:]
    evaluator = evaluated(pairs)
    own = [entry["score"] for entry in evaluator.results() if entry["image_id"] == 20_000]
    expected = found["scores"][found["labels"] == 0].sort(descending=True).values[:100].tolist()
    assert sorted(own, reverse=True) == sorted([*expected, found["scores"][300].item()], reverse=True)
