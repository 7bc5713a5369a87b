"""Matching of predicted and annotated segments of a panoptic image (Kirillov et al. 2019, section 4)."""

from collections.abc import Sequence

import numpy as np

from densevit.interfaces import LABEL_DIVISOR, VOID

TRUE_POSITIVE, FALSE_POSITIVE, FALSE_NEGATIVE = range(3)
SEGMENT = np.dtype([("label", np.int32), ("outcome", np.int8), ("iou", np.float64)])  # iou: 0 unless matched


def match_segments(truth: np.ndarray, prediction: np.ndarray, crowds: Sequence[int] = ()) -> np.ndarray:
    """The outcome of each segment that counts, as panopticapi defines it.

    A predicted and an annotated segment of one class match if their IoU is above 0.5, where void pixels of the ground
    truth do not count for the union. Crowds match nothing and are not missed. Predicted segments without a match are
    ignored if more than half of their area is void or belongs to crowds of their class, and false positives otherwise.

    truth, prediction: (H, W) integers, panoptic ids. crowds: ids of the ground truth.
    Returns (S,) of type `SEGMENT`: matched pairs, then false positives and false negatives.
    """
    ids, rows = _compact(truth)
    found, columns = _compact(prediction)
    pixels = np.bincount(rows * len(found) + columns, minlength=len(ids) * len(found))
    shared = pixels.reshape(len(ids), len(found))  # pixels by segment of ground truth and prediction; 0 is void
    labels, found_labels, is_crowd = ids // LABEL_DIVISOR, found // LABEL_DIVISOR, np.isin(ids, crowds)
    areas, found_areas, void = shared.sum(1), shared.sum(0), shared[0]

    union = areas[:, None] + found_areas - shared - void
    of_class = (labels[:, None] == found_labels) & (ids[:, None] != VOID)  # void is no class
    match = of_class & ~is_crowd[:, None] & (2 * shared > union)
    known, matched = np.nonzero(match)

    ignored = void + (shared * (of_class & is_crowd[:, None])).sum(0)
    wrong = ~match.any(0) & (2 * ignored <= found_areas) & (found != VOID)
    missed = ~match.any(1) & ~is_crowd & (ids != VOID)

    outcomes = {TRUE_POSITIVE: labels[known], FALSE_POSITIVE: found_labels[wrong], FALSE_NEGATIVE: labels[missed]}
    segments = np.zeros(sum(map(len, outcomes.values())), SEGMENT)
    segments["label"] = np.concatenate(list(outcomes.values()))
    segments["outcome"] = np.concatenate([np.full(len(labels), outcome) for outcome, labels in outcomes.items()])
    segments["iou"][: len(known)] = shared[known, matched] / union[known, matched]
    return segments


def _compact(ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The distinct ids of an image, and for each pixel the index of its id, (H * W,). VOID is the first id, even if it
    has no pixel."""
    shifted = ids.ravel().astype(np.int64) - VOID
    present = np.bincount(shifted, minlength=1) > 0
    present[0] = True
    return np.flatnonzero(present) + VOID, (np.cumsum(present) - 1)[shifted]
