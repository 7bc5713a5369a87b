"""Measured causes of an almost empty AP: classes that differ, or no objects predicted."""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from densevit.errors import counted
from densevit.evaluation.error_analysis import ImageMatches
from densevit.interfaces import Class, Evaluator

_LOW = 0.1
_COVERED = 0.3  # share of objects with a box that fits: far more than untrained models reach
_AGREEING = 0.2  # share of fitting boxes with the class of their object, of which fewer are a mistake of the classes
_FEWEST_OBJECTS = 10
_BACKGROUND = 0.05  # score


def low_scores(metrics: Mapping[str, float], evaluators: Mapping[str, Evaluator]) -> dict[str, float]:
    """Returns the main metrics below 0.1 of evaluators that can explain them, by head. metrics: named HEAD/METRIC.

    With shifted classes, heads that predict each box with several classes reach an AP above 0.01.
    """
    scores = {
        name: metrics[f"{name}/{one.main}"]
        for name, one in evaluators.items()
        if type(one).low_score_causes is not Evaluator.low_score_causes
    }
    return {name: score for name, score in scores.items() if score < _LOW}


def fitting_labels(images: Iterable[ImageMatches], classes: int) -> tuple[np.ndarray, int]:
    """Returns (K, K) counts of objects by their class and the predicted class of the box that fits, and the number of
    objects.

    In each image, as many detections count as there are objects, those with the highest scores. The box that fits an
    object is the first of them with an IoU of at least 0.5, of any class.
    """
    counts, objects = np.zeros((classes, classes), int), 0
    for image in images:
        objects += len(image.truth_labels)
        rows, columns, _ = image.pairs  # sorted by row
        columns, first = np.unique(columns[rows < len(image.truth_labels)], return_index=True)
        np.add.at(counts, (image.truth_labels[columns], image.labels[rows[first]]), 1)
    return counts, objects


def differing_classes(images: Iterable[ImageMatches], classes: Sequence[Class]) -> str:
    """Returns a line if many boxes fit, but few of them have the class of their object; else "". See
    `fitting_labels`."""
    counts, objects = fitting_labels(images, len(classes))
    fitting, right = int(counts.sum()), int(np.trace(counts))
    if objects < _FEWEST_OBJECTS or fitting < _COVERED * objects or right >= _AGREEING * fitting:
        return ""
    rows = [(k, int(counts[k].argmax()), int(counts[k].sum())) for k in np.flatnonzero(counts.sum(1)).tolist()]
    pairs = [
        f"{classes[known].name} is predicted as {classes[found].name} ({counts[known, found]:,} of {number:,})"
        for known, found, number in rows
        if known != found
    ]
    half = len(classes) // 2
    shifts = {(found - known + half) % len(classes) - half for known, found, _ in rows}
    shift = f"; each class index differs by {min(shifts):+d}" if len(shifts) == 1 else ""
    listed = ", ".join(pairs[:5]) + (", ..." if len(pairs) > 5 else "")
    return (
        f"Boxes fit, classes do not: {fitting:,} of {objects:,} objects have a box with an IoU of at least 0.5 among "
        f"the highest scores, and {right:,} of these boxes the class of the object: {listed}{shift}. "
        "Fix: give the annotations of both splits the same class ids; `densevit doctor` draws both with their classes."
    )


def no_objects(scores: np.ndarray, images: int) -> str:
    """Returns a line if all predictions of these images are background, else ""."""
    if not images or scores.max(initial=0) >= _BACKGROUND:
        return ""
    highest = f"; the highest of {counted(len(scores), 'score')} is {scores.max():.2g}" if len(scores) else ""
    return (
        f"No object is predicted in {counted(images, 'image')}{highest}; trained models reach scores near 1. Fix: "
        "check the annotations with `densevit doctor`, then train longer or with a lower optim.lr."
    )
