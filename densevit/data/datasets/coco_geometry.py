"""Whether boxes and masks of a COCO json fit its images: the grid that they are on, and the bounds of masks.

An EXIF orientation of 5 to 8 exchanges height and width. Programs write either size: labelme annotates the upright
image and writes its size; Label Studio annotates the upright image and writes the stored size; programs that ignore
EXIF annotate the stored pixels and write the stored size.
"""

from typing import Literal

import numpy as np

from densevit.data.datasets.coco_annotations import Annotations
from densevit.errors import DataError, counted
from densevit.interfaces import Size

Grid = Literal["upright", "stored"]

MISPLACED = "masks outside of their bbox"
_MARGIN, _INSIDE = 2.0, 0.75  # pixels by which masks may exceed their boxes; least share of the bounds in the box
_CAUSES = (
    "they lie within 0 ... 1. Fix: multiply x by the width and y by the height of the image",
    "x and y look exchanged. Fix: write polygons as x, y, x, y, ..., and run lengths by columns",
    "they may be of other objects, or for another size of the image",
)


def annotated_grid(json_size: Size, stored: Size, upright: Size, boxes: Grid | None) -> tuple[Size, bool]:
    """Returns the size of an image's annotated grid, and whether it is upright. boxes: the user's choice.

    | json_size | the boxes are on |
    |---|---|
    | the upright size, if the stored size differs | the upright image |
    | the stored size, if the upright size differs | the stored pixels, unless `boxes` is upright |
    | both sizes, or unknown (0) | the upright image, unless `boxes` is stored |
    """
    if upright == stored or 0 in json_size:
        is_upright = boxes != "stored"
    else:
        is_upright = json_size == upright or boxes == "upright"
    return upright if is_upright else stored, is_upright


def check_masks(annotations: Annotations) -> None:
    """Raises DataError if most masks of trainable objects, where masks are read, lie outside of their boxes: a mask at
    another place teaches nothing."""
    if annotations.segmentations is not None:
        wrong, count, message = misplaced_masks(annotations, annotations.segmentations.bounds())
        if 2 * len(wrong) > count:
            raise DataError(message, MISPLACED)


def misplaced_masks(annotations: Annotations, bounds: np.ndarray) -> tuple[np.ndarray, int, str]:
    """Returns the rows of the objects whose mask lies outside of its box, the number of trainable objects, and a
    message with the likely cause. bounds: (M, 4) (`Segmentations.bounds`)."""
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
