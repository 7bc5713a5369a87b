"""Panoptic quality against cases worked by hand, and panopticapi's definition written out."""

import math
from collections import defaultdict
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from densevit.errors import ConfigError
from densevit.evaluation.panoptic import Panoptic
from densevit.interfaces import Class, Head
from tests.evaluation.coco_reference import Pairs, updated
from tests.evaluation.evaluated import tables_of

CLASSES = tuple(Class(f"class {n}", n + 10, (n, n, n), thing=n in (1, 2, 4)) for n in range(6))  # stuff: 0, 3, 5


def panoptic_map(rng: np.random.Generator, size: tuple[int, int], rectangles: int, void: float) -> np.ndarray:
    """Overlapping rectangles with ids of five classes; class 5 does not occur."""
    ids = np.full(size, -1, np.int32)
    if rng.random() >= void:
        ids[:] = 3000
    for n in range(rectangles):
        label = int(rng.integers(5))
        top, left = (int(rng.integers(0, side - 3)) for side in size)
        height, width = (int(rng.integers(3, side // 2)) for side in size)
        value = -1 if rng.random() < void else 1000 * label + (n if CLASSES[label].thing else 0)
        ids[top : top + height, left : left + width] = value
    return ids


def messy(seed: int, images: int = 12, void: float = 0.3, predicted_void: float = 0.3) -> Pairs:
    """Shifted copies of the ground truth with other segments on them; void and crowds."""
    rng = np.random.default_rng(seed)
    pairs = []
    for image_id in rng.choice(10_000, images, replace=False).tolist():
        size = (int(rng.integers(32, 60)), int(rng.integers(32, 80)))
        truth = panoptic_map(rng, size, int(rng.integers(0, 12)), void)
        found = np.roll(truth, rng.integers(-2, 3, 2), (0, 1))
        found[:, : size[1] // 4] = panoptic_map(rng, (size[0], size[1] // 4), 3, predicted_void)
        if not predicted_void:
            found[found < 0] = 3000
        candidates = [one for one in np.unique(truth).tolist() if one >= 0 and CLASSES[one // 1000].thing]
        crowds = {one // 1000: one for one in candidates if rng.random() < 0.3}  # one per class at most, as in COCO
        target = {"image_id": image_id, "panoptic": torch.tensor(truth)}
        pairs.append(({"panoptic": torch.tensor(found)}, target | {"panoptic_crowds": list(crowds.values())}))
    return pairs


def reference(pairs: Pairs) -> dict[int, tuple[float, int, int, int]]:
    """Sum of IoUs, TP, FP and FN by class: segment by segment, with a mask for each."""
    sums: dict[int, list[Any]] = defaultdict(lambda: [0.0, 0, 0, 0])
    for prediction, target in pairs:
        truth, found = target["panoptic"].numpy(), prediction["panoptic"].numpy()
        crowds = target.get("panoptic_crowds", [])
        segments = {one: truth == one for one in np.unique(truth).tolist() if one != -1}
        matched = set()
        unmatched = [one for one in segments if one not in crowds]
        for one in np.unique(found).tolist():
            if one == -1:
                continue
            mask, label = found == one, one // 1000
            for known in list(unmatched):
                iou = (mask & segments[known]).sum() / ((mask & (truth != -1)) | segments[known]).sum()
                if known // 1000 == label and iou > 0.5:
                    sums[label][0] += iou
                    sums[label][1] += 1
                    unmatched.remove(known)
                    matched.add(one)
            of_crowd = [segments[crowd] for crowd in crowds if crowd // 1000 == label]
            ignored = (mask & np.any([truth == -1, *of_crowd], axis=0)).sum() / mask.sum() > 0.5
            if one not in matched and not ignored:
                sums[label][2] += 1
        for known in unmatched:
            sums[known // 1000][3] += 1
    return {label: tuple(values) for label, values in sums.items()}


def qualities(iou: float, tp: int, fp: int, fn: int) -> tuple[float, float, float]:
    return iou / (tp + 0.5 * fp + 0.5 * fn), iou / tp if tp else 0.0, tp / (tp + 0.5 * fp + 0.5 * fn)


def evaluated(pairs: Pairs, batch_size: int = 5, **options: Any) -> Panoptic:
    return updated(Panoptic(CLASSES, **options), pairs, batch_size)


def of(truth: Any, found: Any, crowds: tuple[int, ...] = ()) -> list[list[Any]]:
    """The rows of the table of one image, by class: PQ, SQ, RQ, TP, FP, FN."""
    target = {"image_id": 1, "panoptic": torch.tensor(truth, dtype=torch.int32), "panoptic_crowds": list(crowds)}
    evaluator = evaluated([({"panoptic": torch.tensor(found, dtype=torch.int32)}, target)])
    return [row[1:] for row in tables_of(evaluator)["panoptic"][4:]]


def test_metrics_match_the_definition():
    pairs = messy(0, images=60)
    expected = reference(pairs)
    evaluator = evaluated(pairs)
    metrics, rows = evaluator.metrics(), tables_of(evaluator)["panoptic"]
    for n, row in enumerate(rows[4:]):
        if n in expected:
            assert row[4:] == list(expected[n][1:])
            assert row[1:4] == pytest.approx(qualities(*expected[n]), rel=1e-12)
            assert metrics[f"PQ/class {n}"] == row[1]
    assert {sum(counts) > 0 for counts in zip(*(values[1:] for values in expected.values()), strict=True)} == {True}
    groups = {"": range(6), "_th": (1, 2, 4), "_st": (0, 3, 5)}
    for (suffix, group), row in zip(groups.items(), rows[1:4], strict=True):
        means = np.mean([qualities(*expected[n]) for n in group if n in expected], axis=0)
        assert [metrics[f"{name}{suffix}"] for name in ("PQ", "SQ", "RQ")] == pytest.approx(means, rel=1e-12)
        assert row[1:4] == [metrics[f"{name}{suffix}"] for name in ("PQ", "SQ", "RQ")]
    assert 0.2 < metrics["PQ"] < 0.95
    assert math.isnan(metrics["PQ/class 5"])  # in no image, and not in the mean


def test_matches_above_half():
    """A thing of 6 pixels: 4 found and 2 more on another class is 4/8; 5 found and nothing else is 5/6."""
    truth = [[1000] * 6 + [0] * 6]
    half = of(truth, [[1000] * 4 + [0] * 2 + [1000] * 2 + [0] * 4])
    assert half[:2] == [[0, 0, 0, 0, 1, 1]] * 2  # exactly one half is no match
    more = of(truth, [[1000] * 5 + [0] * 7])
    assert more[:2] == [[6 / 7, 6 / 7, 1, 1, 0, 0], [5 / 6, 5 / 6, 1, 1, 0, 0]]


def test_predictions_on_void_and_on_crowds_are_ignored_if_more_than_half():
    nothing = [math.nan, math.nan, math.nan, 0, 0, 0]
    cases = [
        ([[-1] * 3 + [0] * 2], (), nothing),  # 3/5 void
        ([[-1] * 2 + [0] * 2], (), [0, 0, 0, 0, 1, 0]),  # half void
        ([[1000] * 3 + [0] * 2], (1000,), nothing),  # a crowd is not missed, and takes the prediction
        ([[1000] * 2 + [-1] + [0] * 2], (1000,), nothing),  # crowd and void together
        ([[2000] * 3 + [0] * 2], (2000,), [0, 0, 0, 0, 1, 0]),  # a crowd of another class
    ]
    for truth, crowds, expected in cases:
        row = of(truth, [[1007] * len(truth[0])], crowds)
        assert np.array_equal(row[1], expected, equal_nan=True), truth


def test_classes_of_masks_are_the_things() -> None:
    data: Any = SimpleNamespace(classes={"detection": CLASSES[:1]}, provides=("masks",))
    with pytest.raises(ConfigError, match="^masks is true, but .* class 0, .* class 1, class 2, class 4; "):
        Panoptic(CLASSES).prepare(Head([], [], []), data)
    Panoptic(CLASSES, masks=False).prepare(Head([], [], []), data)
