"""Matching of predicted and annotated panoptic segments (Kirillov et al. 2019, section 4)."""

from collections.abc import Sequence

import numpy as np

from densevit.interfaces import LABEL_DIVISOR, VOID

TRUE_POSITIVE, FALSE_POSITIVE, FALSE_NEGATIVE = range(3)
SEGMENT = np.dtype([("label", np.int32), ("outcome", np.int8), ("iou", np.float64)])  # iou: 0 unless matched


def match_segments(truth: np.ndarray, prediction: np.ndarray, crowds: Sequence[int] = ()) -> np.ndarray:
    """The outcomes of the segments of an image, as defined by panopticapi.

    A predicted and an annotated segment of one class match if their IoU is above 0.5; void pixels of the ground truth
    do not count in the union. Crowds match nothing and are not missed. A predicted segment without a match is ignored
    if more than half of its area is void or on crowds of its class, and otherwise a false positive.

    truth, prediction: (H, W) integers, panoptic ids. crowds: ids of the ground truth.
    Returns (S,) of type `SEGMENT`: matched pairs, then false positives and false negatives.
    """
    ids, rows = _compact(truth)
    predicted_ids, columns = _compact(prediction)
    pixels = np.bincount(rows * len(predicted_ids) + columns, minlength=len(ids) * len(predicted_ids))
    shared = pixels.reshape(len(ids), len(predicted_ids))  # pixels by segment of ground truth and prediction; 0 is void
    labels, predicted_labels, is_crowd = ids // LABEL_DIVISOR, predicted_ids // LABEL_DIVISOR, np.isin(ids, crowds)
    areas, predicted_areas, void = shared.sum(1), shared.sum(0), shared[0]

    union = areas[:, None] + predicted_areas - shared - void
    same_class = (labels[:, None] == predicted_labels) & (ids[:, None] != VOID)  # void is no class
    match = same_class & ~is_crowd[:, None] & (2 * shared > union)
    true_rows, predicted_rows = np.nonzero(match)

    ignored = void + (shared * (same_class & is_crowd[:, None])).sum(0)
    wrong = ~match.any(0) & (2 * ignored <= predicted_areas) & (predicted_ids != VOID)
    missed = ~match.any(1) & ~is_crowd & (ids != VOID)

    outcomes = {
        TRUE_POSITIVE: labels[true_rows],
        FALSE_POSITIVE: predicted_labels[wrong],
        FALSE_NEGATIVE: labels[missed],
    }
    segments = np.zeros(sum(map(len, outcomes.values())), SEGMENT)
    segments["label"] = np.concatenate(list(outcomes.values()))
    segments["outcome"] = np.concatenate([np.full(len(labels), outcome) for outcome, labels in outcomes.items()])
    segments["iou"][: len(true_rows)] = shared[true_rows, predicted_rows] / union[true_rows, predicted_rows]
    return segments


def _compact(ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The distinct ids of an image, and the index of each pixel's id, (H * W,). VOID is the first id, also without
    pixels."""
    shifted = ids.ravel().astype(np.int64) - VOID
    present = np.bincount(shifted, minlength=1) > 0
    present[0] = True
    return np.flatnonzero(present) + VOID, (np.cumsum(present) - 1)[shifted]
