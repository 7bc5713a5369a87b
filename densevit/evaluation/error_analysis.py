"""Error analysis of detections (TIDE, Bolya et al. 2020): the AP lost by each type of error."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from densevit.evaluation.detection_outcomes import (
    BOTH,
    CLASSIFICATION,
    CORRECT,
    DUPLICATE,
    FOREGROUND,
    LOCALISATION,
    ON_BACKGROUND,
    Outcomes,
    classify,
)
from densevit.evaluation.object_records import ObjectRecords
from densevit.interfaces import Table

ERRORS = ("classification", "localisation", "both", "duplicate", "background")
_RECALLS = np.arange(101) / 100


@dataclass(frozen=True)
class ErrorAnalysis:
    """The outcomes of all detections and ground-truth objects of a data set.

    average_precision: the AP at an IoU of 0.5. gains: the AP gained by fixing only the errors of a type, by type.
    counts: the number of errors of each type. detections: all except detections on crowds of their class. objects: the
    number of ground-truth objects of each class, without crowds, (K,). images: the outcomes of each image.
    """

    average_precision: float
    gains: Mapping[str, float]
    counts: Mapping[str, int]
    detections: "Detections"
    objects: np.ndarray
    images: Sequence["ImageMatches"]

    def table(self) -> Table:
        """One row per type of error: the AP gained by fixing only these errors, and their number."""
        rows: list[list[str | int | float]] = [[name, self.gains[name], self.counts[name]] for name in self.gains]
        return [["error", "dAP50", "count"], *rows]

    def confusion(self, threshold: float) -> np.ndarray:
        """(K + 1, K + 1) int64 counts, ground truth by prediction; the last index is the background.

        Detections with a score of at least `threshold` and objects of any class are matched one to one, in descending
        order of IoU, from 0.5.
        """
        counts = np.zeros((len(self.objects) + 1, len(self.objects) + 1), np.int64)
        for image in self.images:
            image.count(counts, threshold)
        return counts

    def image_scores(self, threshold: float) -> list[float | None]:
        """Each image's sum of IoUs of correct detections / (TP + FP / 2 + FN / 2), 0 ... 1, for detections with a
        score of at least `threshold`; None for images that contain neither objects nor detections."""
        return [image.score(threshold) for image in self.images]


class Detections(NamedTuple):
    """Labels, scores and correctness, (D,) each."""

    labels: np.ndarray
    scores: np.ndarray
    correct: np.ndarray


@dataclass(frozen=True)
class ImageMatches:
    """The detections of an image, (D,) in descending order of scores, and its objects, (G,) without crowds.

    correct: (D,) bool. ious: (D,), of correct detections with their objects. ignored: (D,) bool, on crowds of their
    class. on_crowds: (D,) bool, on any crowd. pairs: rows, columns and IoUs (P,) of all pairs of a detection and an
    object with an IoU of at least 0.5.
    """

    labels: np.ndarray
    scores: np.ndarray
    correct: np.ndarray
    ious: np.ndarray
    ignored: np.ndarray
    on_crowds: np.ndarray
    truth_labels: np.ndarray
    pairs: tuple[np.ndarray, np.ndarray, np.ndarray]

    @classmethod
    def of(
        cls, outcomes: Outcomes, truth_labels: np.ndarray, ious: np.ndarray, on_crowds: np.ndarray
    ) -> "ImageMatches":
        """ious: (D, G)."""
        correct = outcomes.matches >= 0
        hits, (rows, columns) = np.flatnonzero(correct), np.nonzero(ious >= FOREGROUND)
        matched = np.zeros(len(correct))
        matched[hits] = ious[hits, outcomes.matches[hits]]
        pairs = (rows, columns, ious[rows, columns])
        return cls(outcomes.labels, outcomes.scores, correct, matched, outcomes.ignored, on_crowds, truth_labels, pairs)

    def score(self, threshold: float) -> float | None:
        """The image's score (`ErrorAnalysis.image_scores`); None without objects and detections."""
        shown = self.scores >= threshold
        hits = shown & self.correct
        right, wrong = np.count_nonzero(hits), np.count_nonzero(shown & ~self.correct & ~self.ignored)
        total = right + (wrong + len(self.truth_labels) - right) / 2
        return float(self.ious[hits].sum()) / total if total else None

    def count(self, counts: np.ndarray, threshold: float) -> None:
        """Adds this image to the counts of `ErrorAnalysis.confusion`."""
        rows, columns, ious = self.pairs
        # Equal IoUs: the same class first.
        order = np.lexsort((self.labels[rows] != self.truth_labels[columns], -ious))
        background = len(counts) - 1
        free, unmatched = (self.scores >= threshold) & ~self.on_crowds, np.ones(len(self.truth_labels), bool)
        for row, column in zip(rows[order].tolist(), columns[order].tolist(), strict=True):
            if free[row] and unmatched[column]:
                free[row] = unmatched[column] = False
                counts[self.truth_labels[column], self.labels[row]] += 1
        counts[:, background] += np.bincount(self.truth_labels[unmatched], minlength=len(counts))
        counts[background] += np.bincount(self.labels[free], minlength=len(counts))


def analyse(
    records: ObjectRecords, overlaps: Callable[[np.ndarray, np.ndarray], np.ndarray], classes: int, limit: int
) -> ErrorAnalysis:
    """Types of errors at an IoU of 0.5, as in the paper's section 2 and its implementation, tidecv.

    In the order of scores, a detection is correct if it matches an object of its class. All others are errors:

        localisation    IoU of 0.1 to 0.5 with an object of its class
        classification  IoU of at least 0.5 with an object of another class
        duplicate       IoU of at least 0.5 with an object of its class that a better detection matches
        background      IoU of at most 0.1 with all objects
        both            the rest: IoU of 0.1 to 0.5 with an object of another class
        missed          an object that no detection matches, also after fixing a localisation or classification error

    Fixing: of all localisation or classification errors that could match an object, the highest-scoring one becomes
    correct and the others are removed; duplicate, background and both are removed; missed objects are left out of the
    ground truth. `false positives` gives all false positives the lowest score, `false negatives` leaves all unmatched
    objects out. Detections on crowds of their class are ignored, but can be fixed; those of a class that is not
    labelled in the image are no errors. Classes without ground truth do not
    count, as in COCO's AP. A gain is nan where fixing leaves neither objects nor detections, for example the gain of
    missed objects without any detections.

    overlaps: maps rows of detections and of objects of one image to their IoUs. limit: detections used per image.
    """
    parts: list[Outcomes] = []
    images: list[ImageMatches] = []
    matched = np.zeros(len(records.truth_labels), bool)
    fixable = np.zeros(len(records.truth_labels), bool)
    for number in range(len(records.truths) - 1):
        rows, every = (np.arange(*first[number : number + 2]) for first in (records.detections, records.truths))
        rows = rows[np.argsort(-records.scores[rows], kind="stable")[:limit]]
        targets, crowds = every[~records.crowds[every]], every[records.crowds[every]]
        ious, over_crowds = (
            overlaps(rows, truths) if len(rows) and len(truths) else np.zeros((len(rows), len(truths)))
            for truths in (targets, crowds)
        )
        over_crowds = over_crowds > FOREGROUND
        labels, truth_labels = records.labels[rows], records.truth_labels[targets]
        on_crowd = (over_crowds & (labels[:, None] == records.truth_labels[crowds])).any(1)
        outcomes = classify(labels, truth_labels, ious, on_crowd, records.unlabelled[rows], records.scores[rows])
        parts.append(outcomes)
        matched[targets[outcomes.matches[outcomes.matches >= 0]]] = True
        fixable[targets[outcomes.targets[outcomes.fixed]]] = True
        images.append(ImageMatches.of(outcomes, truth_labels, ious, over_crowds.any(1) | outcomes.ignored))
    return _fixed(Outcomes.joined(parts), records, matched, fixable, images, classes)


def _fixed(
    outcomes: Outcomes,
    records: ObjectRecords,
    matched: np.ndarray,
    fixable: np.ndarray,
    images: Sequence["ImageMatches"],
    classes: int,
) -> ErrorAnalysis:
    """Computes the AP, and the gain in AP from fixing each type of error."""
    objects = ~records.crowds
    positives = np.bincount(records.truth_labels[objects], minlength=classes)
    lost, missed = objects & ~matched, objects & ~matched & ~fixable
    correct, counted = outcomes.kinds == CORRECT, ~outcomes.ignored

    def precision(
        changed: np.ndarray | None = None, excluded: np.ndarray | None = None, order: np.ndarray | None = None
    ) -> float:
        """The mean AP after fixing the detections `changed`, without the objects `excluded`, with `order` as scores."""
        labels, right, kept = outcomes.labels, correct, counted
        if changed is not None:
            repaired = changed & outcomes.fixed
            labels = np.where(repaired, outcomes.fixed_labels, labels)
            right, kept = right | repaired, (kept & ~changed) | repaired
        number = positives
        if excluded is not None:
            number = positives - np.bincount(records.truth_labels[excluded], minlength=classes)
        values = outcomes.scores if order is None else order
        return _mean_precision(labels[kept], values[kept], right[kept], number, positives > 0)

    base = precision()
    codes = dict(zip(ERRORS, (CLASSIFICATION, LOCALISATION, BOTH, DUPLICATE, ON_BACKGROUND), strict=True))
    gains = {name: _gain(precision(outcomes.kinds == code), base) for name, code in codes.items()}
    gains["missed"] = _gain(precision(excluded=missed), base)
    gains["false positives"] = precision(order=correct.astype(float)) - base
    gains["false negatives"] = precision(excluded=lost) - base
    counts = {name: int(np.count_nonzero(outcomes.kinds == code)) for name, code in codes.items()}
    counts |= {
        "missed": int(missed.sum()),
        "false positives": int((counted & ~correct).sum()),
        "false negatives": int(lost.sum()),
    }
    detections = Detections(outcomes.labels[counted], outcomes.scores[counted], correct[counted])
    return ErrorAnalysis(base, gains, counts, detections, positives, images)


def _gain(fixed: float, base: float) -> float:
    """The difference of the AP after and before fixing errors, `fixed` - `base`, at least 0; nan if `fixed` is
    undefined."""
    return max(fixed - base, 0.0)  # max returns nan only as its first value


def _mean_precision(
    labels: np.ndarray, scores: np.ndarray, correct: np.ndarray, positives: np.ndarray, counted: np.ndarray
) -> float:
    """The mean over classes of the AP at 101 recalls. positives: objects per class. counted: classes, (K,) bool.

    Classes without detections whose objects are all left out do not count; nan if no class counts.
    """
    order = np.lexsort((-scores, labels))
    starts = np.searchsorted(labels[order], np.arange(len(positives) + 1))
    values = []
    for n in np.flatnonzero(counted).tolist():
        hits = correct[order[starts[n] : starts[n + 1]]]
        if positives[n]:
            values.append(_average_precision(hits, int(positives[n])))
        elif len(hits):
            values.append(0.0)
    return float(np.mean(values)) if values else float("nan")


def _average_precision(hits: np.ndarray, positives: int) -> float:
    true_positives = np.cumsum(hits)
    precision = np.maximum.accumulate((true_positives / np.arange(1, len(hits) + 1))[::-1])[::-1]
    ranks = np.searchsorted(true_positives / positives, _RECALLS)
    return float(precision[ranks[ranks < len(hits)]].sum()) / len(_RECALLS)
