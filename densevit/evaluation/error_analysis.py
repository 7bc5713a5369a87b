"""Error analysis of detections (TIDE, Bolya et al. 2020), their confusion matrix, and a score of each image."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import NamedTuple

import numpy as np

from densevit.evaluation.object_records import ObjectRecords
from densevit.interfaces import Table

FOREGROUND, BACKGROUND = 0.5, 0.1  # IoU thresholds of the paper, t_f and t_b
ERRORS = ("classification", "localisation", "both", "duplicate", "background")
_CORRECT, _CLASS, _LOCATION, _BOTH, _DUPLICATE, _BACKGROUND = range(6)
_RECALLS = np.arange(101) / 100


@dataclass(frozen=True)
class ErrorAnalysis:
    """The outcomes of all detections and ground-truth objects of a data set.

    average_precision: the AP at an IoU of 0.5. gains: the AP that would be gained if all errors of a type were fixed
    and no others. counts: the number of errors of each type. detections: all detections but those on crowds of their
    class. images: the outcomes of each image id.
    """

    average_precision: float
    gains: Mapping[str, float]
    counts: Mapping[str, int]
    detections: "Detections"
    images: Mapping[int | str, "ImageMatches"]
    classes: int

    def table(self) -> Table:
        """The gains and counts of all errors."""
        rows: list[list[str | int | float]] = [[name, self.gains[name], self.counts[name]] for name in self.gains]
        return [["error", "dAP50", "count"], *rows]

    def confusion(self, threshold: float) -> np.ndarray:
        """(K + 1, K + 1) int64 counts, ground truth by prediction; the last index is the background.

        Detections with a score of at least `threshold` and objects of any class are matched one to one, in descending
        order of IoU, from 0.5.
        """
        counts = np.zeros((self.classes + 1, self.classes + 1), np.int64)
        for image in self.images.values():
            image.count(counts, threshold)
        return counts

    def image_scores(self, threshold: float) -> dict[int | str, float]:
        """The sum of IoUs of correct detections / (TP + FP / 2 + FN / 2) by image, of detections with a score of at
        least `threshold`, 0 ... 1; images without objects and detections have none."""
        scores = {image_id: image.score(threshold) for image_id, image in self.images.items()}
        return {image_id: score for image_id, score in scores.items() if score is not None}


class Detections(NamedTuple):
    """Labels, scores, and whether each is correct, (D,)."""

    labels: np.ndarray
    scores: np.ndarray
    correct: np.ndarray


@dataclass(frozen=True)
class ImageMatches:
    """The detections of an image, (D,) in descending order of scores, and its objects, (G,) without crowds.

    correct: (D,) bool. ious: (D,), of correct detections with their objects. ignored: (D,) bool, those on crowds of
    their class. on_crowds: (D,) bool, those on any crowd. pairs: rows, columns and IoUs (P,) of all pairs of a
    detection and an object with an IoU of at least 0.5.
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
        cls, outcomes: "_Outcomes", truth_labels: np.ndarray, ious: np.ndarray, on_crowds: np.ndarray
    ) -> "ImageMatches":
        """ious: (D, G)."""
        correct = outcomes.matches >= 0
        hits, (rows, columns) = np.flatnonzero(correct), np.nonzero(ious >= FOREGROUND)
        matched = np.zeros(len(correct))
        matched[hits] = ious[hits, outcomes.matches[hits]]
        pairs = (rows, columns, ious[rows, columns])
        return cls(outcomes.labels, outcomes.scores, correct, matched, outcomes.ignored, on_crowds, truth_labels, pairs)

    def score(self, threshold: float) -> float | None:
        """The image's score, see `ErrorAnalysis.image_scores`; None if it has neither objects nor detections."""
        shown = self.scores >= threshold
        hits = shown & self.correct
        right, wrong = np.count_nonzero(hits), np.count_nonzero(shown & ~self.correct & ~self.ignored)
        total = right + (wrong + len(self.truth_labels) - right) / 2
        return float(self.ious[hits].sum()) / total if total else None

    def count(self, counts: np.ndarray, threshold: float) -> None:
        """Adds the counts of this image to those of `ErrorAnalysis.confusion`."""
        rows, columns, ious = self.pairs
        # Equal IoUs: the same class first.
        order = np.lexsort((self.labels[rows] != self.truth_labels[columns], -ious))
        background = len(counts) - 1
        free, known = (self.scores >= threshold) & ~self.on_crowds, np.ones(len(self.truth_labels), bool)
        for row, column in zip(rows[order].tolist(), columns[order].tolist(), strict=True):
            if free[row] and known[column]:
                free[row] = known[column] = False
                counts[self.truth_labels[column], self.labels[row]] += 1
        counts[:, background] += np.bincount(self.truth_labels[known], minlength=len(counts))
        counts[background] += np.bincount(self.labels[free], minlength=len(counts))


def analyse(
    records: ObjectRecords, overlaps: Callable[[np.ndarray, np.ndarray], np.ndarray], classes: int, limit: int
) -> ErrorAnalysis:
    """Types of errors at an IoU of 0.5, as in the paper's section 2 and its implementation, tidecv.

    A detection is correct if it matches an object of its class, in the order of scores. The others are errors:

        localisation    IoU of 0.1 to 0.5 with an object of its class
        classification  IoU of at least 0.5 with an object of another class
        duplicate       IoU of at least 0.5 with an object of its class that a better detection matches
        background      IoU of at most 0.1 with all objects
        both            the rest: IoU of 0.1 to 0.5 with an object of another class
        missed          an object without a match that no localisation or classification error could be fixed to

    Fixing: of all localisation or classification errors that could match an object, the one with the highest score
    becomes correct and the others are removed; duplicate, background and both are removed; missed objects are left out
    of the ground truth. `false positives` gives all false positives the lowest score, `false negatives` leaves all
    unmatched objects out. Detections on crowds of their class are ignored, but can be fixed. Classes without ground
    truth do not count, as in COCO's AP. A gain is nan where fixing leaves neither objects nor detections, for example
    the gain of missed objects if there are no detections at all.

    overlaps: maps rows of detections and of objects of one image to their IoUs. limit: the number of detections used
    per image.
    """
    parts: list[_Outcomes] = []
    images: dict[int | str, ImageMatches] = {}
    found = np.zeros(len(records.truth_labels), bool)
    fixable = np.zeros(len(records.truth_labels), bool)
    ends, truth_ends = np.cumsum(records.detections), np.cumsum(records.truths)
    for number, image_id in enumerate(records.ids.tolist()):
        rows = np.arange(ends[number] - records.detections[number], ends[number])
        rows = rows[np.argsort(-records.scores[rows], kind="stable")[:limit]]
        every = np.arange(truth_ends[number] - records.truths[number], truth_ends[number])
        known, crowds = every[~records.crowds[every]], every[records.crowds[every]]
        ious, over_crowds = (
            overlaps(rows, some) if len(rows) and len(some) else np.zeros((len(rows), len(some)))
            for some in (known, crowds)
        )
        over_crowds = over_crowds > FOREGROUND
        labels, truth_labels = records.labels[rows], records.truth_labels[known]
        on_crowd = (over_crowds & (labels[:, None] == records.truth_labels[crowds])).any(1)
        one = _outcomes(labels, truth_labels, ious, on_crowd, records.scores[rows])
        parts.append(one)
        found[known[one.matches[one.matches >= 0]]] = True
        fixable[known[one.targets[one.fixed]]] = True
        images[image_id] = ImageMatches.of(one, truth_labels, ious, np.asarray(over_crowds.any(1)))
    outcomes = _Outcomes.joined(parts)
    return _fixed(outcomes, records, found, fixable, images, classes)


@dataclass(frozen=True)
class _Outcomes:
    """Detections in descending order of their scores within each image.

    matches: the object that each is matched with; -1: none. targets: the object to which a classification or
    localisation error is fixed, for those that are `fixed`. fixed_labels: its class.
    """

    labels: np.ndarray
    scores: np.ndarray
    kinds: np.ndarray
    ignored: np.ndarray
    matches: np.ndarray
    targets: np.ndarray
    fixed: np.ndarray
    fixed_labels: np.ndarray

    @classmethod
    def joined(cls, parts: "list[_Outcomes]") -> "_Outcomes":
        first = _outcomes(np.zeros(0, int), np.zeros(0, int), np.zeros((0, 0)), np.zeros(0, bool), np.zeros(0))
        parts = [first, *parts]
        return cls(*(np.concatenate([getattr(one, field.name) for one in parts]) for field in fields(cls)))


def _outcomes(
    labels: np.ndarray, truth_labels: np.ndarray, ious: np.ndarray, on_crowd: np.ndarray, scores: np.ndarray
) -> _Outcomes:
    """The detections of one image. ious: (D, G), without crowds."""
    number = len(labels)
    if not len(truth_labels) or not number:
        kinds = np.full(number, _BACKGROUND)
        none = np.full(number, -1)
        return _Outcomes(labels, scores, kinds, on_crowd, none, none, np.zeros(number, bool), labels)
    same = labels[:, None] == truth_labels
    own, other = ious * same, ious * ~same
    matches = _matches(own)
    used = np.isin(np.arange(len(truth_labels)), matches)
    closest = own.max(1)
    kinds = np.select(
        [
            matches >= 0,
            (closest >= BACKGROUND) & (closest <= FOREGROUND),
            other.max(1) >= FOREGROUND,
            (own * used).max(1) >= FOREGROUND,
            ious.max(1) <= BACKGROUND,
        ],
        [_CORRECT, _LOCATION, _CLASS, _DUPLICATE, _BACKGROUND],
        _BOTH,
    )
    targets = np.where(kinds == _LOCATION, own.argmax(1), other.argmax(1))
    candidates = np.flatnonzero(np.isin(kinds, (_LOCATION, _CLASS)) & ~used[targets])
    _, first = np.unique(targets[candidates], return_index=True)  # the one with the highest score
    fixed = np.zeros(number, bool)
    fixed[candidates[first]] = True
    ignored = on_crowd & (kinds != _CORRECT)
    return _Outcomes(labels, scores, kinds, ignored, matches, targets, fixed, truth_labels[targets])


def _matches(class_ious: np.ndarray) -> np.ndarray:
    """The object that matches each detection, or -1. class_ious: (D, G), IoUs with the objects of its class."""
    free, matches = class_ious.copy(), np.full(len(class_ious), -1)
    for row in np.flatnonzero((class_ious >= FOREGROUND).any(1)):
        best = int(free[row].argmax())
        if free[row, best] >= FOREGROUND:
            matches[row] = best
            free[:, best] = 0
    return matches


def _fixed(
    outcomes: _Outcomes,
    records: ObjectRecords,
    found: np.ndarray,
    fixable: np.ndarray,
    images: Mapping[int | str, "ImageMatches"],
    classes: int,
) -> ErrorAnalysis:
    """The AP, and the gains in AP when each type of error is fixed."""
    objects = ~records.crowds
    positives = np.bincount(records.truth_labels[objects], minlength=classes)
    lost, missed = objects & ~found, objects & ~found & ~fixable
    correct, counted = outcomes.kinds == _CORRECT, ~outcomes.ignored

    def precision(
        changed: np.ndarray | None = None, left_out: np.ndarray | None = None, order: np.ndarray | None = None
    ) -> float:
        """The mean AP with `changed` detections fixed, without the objects `left_out`, and with `order` as scores."""
        labels, right, kept = outcomes.labels, correct, counted
        if changed is not None:
            repaired = changed & outcomes.fixed
            labels = np.where(repaired, outcomes.fixed_labels, labels)
            right, kept = right | repaired, (kept & ~changed) | repaired
        number = positives
        if left_out is not None:
            number = positives - np.bincount(records.truth_labels[left_out], minlength=classes)
        values = outcomes.scores if order is None else order
        return _mean_precision(labels[kept], values[kept], right[kept], number, positives > 0)

    base = precision()
    kinds = dict(zip(ERRORS, (_CLASS, _LOCATION, _BOTH, _DUPLICATE, _BACKGROUND), strict=True))
    gains = {name: _gain(precision(outcomes.kinds == kind), base) for name, kind in kinds.items()}
    gains["missed"] = _gain(precision(left_out=missed), base)
    gains["false positives"] = precision(order=correct.astype(float)) - base
    gains["false negatives"] = precision(left_out=lost) - base
    counts = {name: int(np.count_nonzero(outcomes.kinds == kind)) for name, kind in kinds.items()}
    counts |= {
        "missed": int(missed.sum()),
        "false positives": int((counted & ~correct).sum()),
        "false negatives": int(lost.sum()),
    }
    detections = Detections(outcomes.labels[counted], outcomes.scores[counted], correct[counted])
    return ErrorAnalysis(base, gains, counts, detections, images, classes)


def _gain(fixed: float, base: float) -> float:
    """The gain in AP, at least 0; nan if the AP is not defined."""
    return max(fixed - base, 0.0)  # max returns nan only as its first value


def _mean_precision(
    labels: np.ndarray, scores: np.ndarray, correct: np.ndarray, positives: np.ndarray, counted: np.ndarray
) -> float:
    """The mean over classes of the AP at 101 recalls. positives: objects of each class. counted: classes, (K,) bool.

    A class whose objects are all left out, and which has no detections, does not count; nan if no class counts.
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
    found = np.cumsum(hits)
    precision = np.maximum.accumulate((found / np.arange(1, len(hits) + 1))[::-1])[::-1]
    places = np.searchsorted(found / positives, _RECALLS)
    return float(precision[places[places < len(hits)]].sum()) / len(_RECALLS)
