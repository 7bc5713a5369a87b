"""F1 of detections by score threshold, and the threshold with the largest F1."""

from collections.abc import Sequence

import numpy as np

from densevit.evaluation.detection_tables import best_and_worst
from densevit.interfaces import Class, Plot

MIN_OBJECTS = 50
"""The fewest ground-truth objects for deriving a threshold."""
_STEPS = np.arange(101) / 100  # scores of a plot


def f1_by_score(scores: np.ndarray, correct: np.ndarray, objects: int) -> tuple[np.ndarray, np.ndarray]:
    """F1 = 2 TP / (detections + objects) of the detections of at least each score.

    scores, correct: (D,); correctness must not depend on detections with lower scores.
    Returns the distinct scores, descending, and their F1.
    """
    order = np.argsort(-scores, kind="stable")
    ordered = scores[order]
    last = np.flatnonzero(np.diff(ordered, append=-np.inf))  # the last detection of each score
    return ordered[last], 2 * np.cumsum(correct[order])[last] / (last + 1 + objects)


def best_threshold(scores: np.ndarray, correct: np.ndarray, objects: int) -> float | None:
    """The score with the largest F1 over all classes; of several, the highest.

    None with fewer than `MIN_OBJECTS` objects, or without any correct detection.
    """
    if objects < MIN_OBJECTS or not correct.any():
        return None
    thresholds, f1 = f1_by_score(scores, correct, objects)
    return float(thresholds[f1.argmax()])


def f1_plots(
    labels: np.ndarray, scores: np.ndarray, correct: np.ndarray, objects: np.ndarray, classes: Sequence[Class]
) -> dict[str, Plot]:
    """F1 against the score threshold, over all classes and for single classes. objects: (K,)."""
    present = np.flatnonzero(objects)
    if not len(present):
        return {}
    masks = ((k, labels == k) for k in present.tolist())
    by_class = {k: _curve(scores[mask], correct[mask], int(objects[k])) for k, mask in masks}
    shown = best_and_worst({k: float(curve.max()) for k, curve in by_class.items()})
    return {
        "F1 by score": _plot({"all classes": _curve(scores, correct, int(objects.sum()))}),
        "F1 by score of classes": _plot({classes[k].name: by_class[k] for k in shown}),
    }


def _curve(scores: np.ndarray, correct: np.ndarray, objects: int) -> np.ndarray:
    """F1 (101,) of detections with scores of at least 0, 0.01, ... 1."""
    thresholds, f1 = f1_by_score(scores, correct, objects)
    scores, steps = (-values.astype(np.float32) for values in (thresholds, _STEPS))  # the precision of predictions
    counts = np.searchsorted(scores, steps, side="right")  # of scores that are not lower
    return np.concatenate([[0.0], f1])[counts]


def _plot(curves: dict[str, np.ndarray]) -> Plot:
    points = {name: list(zip(_STEPS.tolist(), values.tolist(), strict=True)) for name, values in curves.items()}
    return Plot("lowest score", "F1 at an IoU of 0.5", points, unit_axes=True)
