"""Compares the bounds of masks with the boxes of their objects: a mask at another place teaches nothing."""

import numpy as np

from densevit.data.datasets.coco_annotations import Annotations
from densevit.errors import DataError, counted

MISPLACED = "masks outside of their bbox"
_MARGIN, _INSIDE = 2.0, 0.75  # pixels by which masks may exceed their boxes; least share of the bounds in the box
_CAUSES = (
    "they lie within 0 ... 1. Fix: multiply x by the width and y by the height of the image",
    "x and y look exchanged. Fix: write polygons as x, y, x, y, ..., and run lengths by columns",
    "they may be of other objects, or for another size of the image",
)


def check_masks(annotations: Annotations) -> None:
    """Raises DataError if most masks of trainable objects, where masks are read, lie outside of their boxes."""
    if annotations.segmentations is not None:
        wrong, count, message = misplaced_masks(annotations, annotations.segmentations.bounds())
        if 2 * len(wrong) > count:
            raise DataError(message, MISPLACED)


def misplaced_masks(annotations: Annotations, bounds: np.ndarray) -> tuple[np.ndarray, int, str]:
    """Returns the rows of the objects whose mask lies outside of its box, the number of trainable objects, and a
    message with the likely cause. bounds: (M, 4), see `Segmentations.bounds`."""
    objects = np.flatnonzero(annotations.have_area() & ~annotations.iscrowd)
    wrong = objects[outside(bounds[objects], annotations.boxes[objects])]
    exchanged = ~outside(bounds[wrong][:, [1, 0, 3, 2]], annotations.boxes[wrong])
    fitting = ((bounds[wrong] <= 1).all(axis=1), exchanged, np.ones(len(wrong), bool))
    cause = next(cause for cause, rows in zip(_CAUSES, fitting, strict=True) if 2 * rows.sum() >= len(wrong))
    text = f"{annotations.file}: {len(wrong):,} of {counted(len(objects), 'mask')} lie outside of their bbox; {cause}."
    return wrong, len(objects), text


def outside(bounds: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """Returns (M,) bool, the masks of which more than a quarter of the bounds lies outside of the box.

    bounds, boxes: (M, 4), xyxy in pixels; the bounds of an empty mask are 0.
    """
    low, high = bounds[:, :2] - 0.5, bounds[:, 2:] + 0.5  # the bounds of a line have an area, too
    covered = np.minimum(high, boxes[:, 2:] + _MARGIN) - np.maximum(low, boxes[:, :2] - _MARGIN)
    return np.asarray(((covered.clip(min=0) / (high - low)).prod(axis=1) < _INSIDE) & bounds.any(axis=1))
