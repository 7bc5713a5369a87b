"""Pairs of boxes in an image that are nearly the same: an object that was labelled twice, or with two classes."""

from collections.abc import Sequence

import numpy as np

from densevit_workbench.doctor.findings import Findings

_SHIFT = 1.0  # pixels between the sides of two boxes of one object, if their IoU is at least _LEAST_IOU
_LEAST_IOU, _SAME_IOU = 0.7, 0.95


def report_pairs(findings: Findings, pairs: Sequence[tuple[str, bool]], of: int) -> None:
    """Adds findings about boxes that are nearly the same. pairs: a text about each, and whether its boxes have one
    class. of: the number of all boxes."""
    findings.report(
        "warning",
        "nearly identical boxes (same image and class)",
        [text for text, has_one_class in pairs if has_one_class],
        "If each pair is one object, remove one: each is an object for the loss, and in evaluation one is missed.",
        of=of,
    )
    findings.report(
        "warning",
        "boxes with two classes (same image, nearly the same box)",
        [text for text, has_one_class in pairs if not has_one_class],
        "If each pair is one object, remove the wrong class: the loss teaches both.",
        of=of,
    )


def close_pairs(images: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """Returns the pairs (P, 2) of indices, the smaller first, of boxes in one image whose sides differ by at most a
    pixel or whose IoU is at least 0.95. Boxes without area have no pairs.

    images: (M,) image of each box. boxes: (M, 4) xyxy in pixels.
    """
    order = np.lexsort((boxes[:, 0], images))
    order = order[(boxes[order, 2:] > boxes[order, :2]).all(axis=1)]
    images, boxes = images[order], boxes[order]
    width = boxes[:, 2] - boxes[:, 0]
    reach = boxes[:, 0] + np.maximum(
        _SHIFT, width * (1 / _SAME_IOU - 1)
    )  # of the left sides of boxes that may be close
    first, pairs = np.arange(len(order)), [np.zeros((0, 2), np.int64)]
    for distance in range(1, len(order)):
        first = first[first + distance < len(order)]
        second = first + distance
        first = first[(images[first] == images[second]) & (boxes[second, 0] <= reach[first])]
        if not len(first):
            break
        second = first + distance
        is_close = _are_close(boxes[first], boxes[second])
        pairs.append(np.sort(order[np.column_stack([first, second])[is_close]], axis=1))
    together = np.concatenate(pairs)
    return together[np.lexsort(together.T[::-1])]


def _are_close(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Whether pairs of boxes (P, 4) are close, (P,) bool."""
    low, high = np.maximum(first[:, :2], second[:, :2]), np.minimum(first[:, 2:], second[:, 2:])
    shared = (high - low).clip(0).prod(axis=1)
    areas = [(boxes[:, 2:] - boxes[:, :2]).prod(axis=1) for boxes in (first, second)]
    iou = shared / (areas[0] + areas[1] - shared)
    is_shifted = (np.abs(first - second) <= _SHIFT + 1e-6).all(axis=1)
    return (iou >= _SAME_IOU) | (is_shifted & (iou >= _LEAST_IOU))
