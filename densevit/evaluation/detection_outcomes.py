"""The outcome of each detection of an image: correct, or a type of error (TIDE, Bolya et al. 2020)."""

from dataclasses import dataclass, fields

import numpy as np

FOREGROUND, BACKGROUND = 0.5, 0.1  # IoU thresholds of the paper, t_f and t_b
CORRECT, CLASSIFICATION, LOCALISATION, BOTH, DUPLICATE, ON_BACKGROUND, UNLABELLED = range(7)


@dataclass(frozen=True)
class Outcomes:
    """Detections in descending order of scores within each image.

    matches: the matched object of each detection; -1: none. targets: the object that a classification or localisation
    error is fixed to, where `fixed`. fixed_labels: its class.
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
    def joined(cls, parts: "list[Outcomes]") -> "Outcomes":
        labels, flags = np.zeros(0, int), np.zeros(0, bool)
        first = classify(labels, labels, np.zeros((0, 0)), flags, flags, np.zeros(0))
        parts = [first, *parts]
        return cls(*(np.concatenate([getattr(part, field.name) for part in parts]) for field in fields(cls)))


def classify(
    labels: np.ndarray,
    truth_labels: np.ndarray,
    ious: np.ndarray,
    on_crowd: np.ndarray,
    unlabelled: np.ndarray,
    scores: np.ndarray,
) -> Outcomes:
    """The outcomes of an image's detections. labels, scores: (D,), of detections. truth_labels: (G,), of objects
    without crowds. ious: (D, G). on_crowd, unlabelled: (D,) bool, whether a detection is on a crowd of its class, and
    whether its class is not labelled in the image."""
    number = len(labels)
    if not len(truth_labels) or not number:
        kinds = np.where(unlabelled, UNLABELLED, ON_BACKGROUND)
        none = np.full(number, -1)
        return Outcomes(labels, scores, kinds, on_crowd | unlabelled, none, none, np.zeros(number, bool), labels)
    same = labels[:, None] == truth_labels
    same_class, other_class = ious * same, ious * ~same
    matches = _matches(same_class)
    used = np.isin(np.arange(len(truth_labels)), matches)
    closest = same_class.max(1)
    kinds = np.select(
        [
            matches >= 0,
            unlabelled,
            (closest >= BACKGROUND) & (closest <= FOREGROUND),
            other_class.max(1) >= FOREGROUND,
            (same_class * used).max(1) >= FOREGROUND,
            ious.max(1) <= BACKGROUND,
        ],
        [CORRECT, UNLABELLED, LOCALISATION, CLASSIFICATION, DUPLICATE, ON_BACKGROUND],
        BOTH,
    )
    targets = np.where(kinds == LOCALISATION, same_class.argmax(1), other_class.argmax(1))
    candidates = np.flatnonzero(np.isin(kinds, (LOCALISATION, CLASSIFICATION)) & ~used[targets])
    _, first = np.unique(targets[candidates], return_index=True)  # the highest-scoring candidate
    fixed = np.zeros(number, bool)
    fixed[candidates[first]] = True
    ignored = (on_crowd | unlabelled) & (kinds != CORRECT)
    return Outcomes(labels, scores, kinds, ignored, matches, targets, fixed, truth_labels[targets])


def _matches(class_ious: np.ndarray) -> np.ndarray:
    """The matched object of each detection, or -1. class_ious: (D, G), IoUs with objects of the detection's class."""
    free, matches = class_ious.copy(), np.full(len(class_ious), -1)
    for row in np.flatnonzero((class_ious >= FOREGROUND).any(1)):
        best = int(free[row].argmax())
        if free[row, best] >= FOREGROUND:
            matches[row] = best
            free[:, best] = 0
    return matches
