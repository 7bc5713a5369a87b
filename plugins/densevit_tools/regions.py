"""The regions of a result: what label tools and data set browsers show."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from densevit import Result
from densevit.interfaces import LABEL_DIVISOR
from densevit.targets.types import as_array


class Region(NamedTuple):
    """An object, a segment, the pixels of a class, or the class of an image.

    name: the class. score: None without one. box: (4,) xyxy in pixels; None for the class of an image. mask: (H, W)
    bool; None for a box alone.
    """

    name: str
    score: float | None
    box: np.ndarray | None = None
    mask: np.ndarray | None = None


def regions_of(result: Result) -> Iterator[Region]:
    """Yields the regions of all heads: a head's panoptic segments, or else its objects, or else its classes in a label
    map; and the class of the image. Regions without a pixel are omitted."""
    for part in result.heads.values():
        if "panoptic" in part:
            yield from _masks(part, as_array(part.panoptic), LABEL_DIVISOR)
        elif "labels" in part:
            yield from _objects(part)
        elif "semantic" in part:
            yield from _masks(part, as_array(part.semantic), 1)
        if "image_class" in part:
            score = float(as_array(part.class_scores).max()) if "class_scores" in part else None
            yield Region(part.class_name, score)


def _objects(result: Result) -> Iterator[Region]:
    masks = as_array(result.masks).astype(bool) if "masks" in result else [None] * len(result.names)
    boxes = as_array(result.boxes) if "boxes" in result else [None] * len(result.names)
    for name, score, box, mask in zip(result.names, result.scores.tolist(), boxes, masks, strict=True):
        if mask is None or mask.any():
            yield Region(name, score, _box_of(mask) if box is None else box, mask)


def _masks(result: Result, values: np.ndarray, divisor: int) -> Iterator[Region]:
    """A region per value of a map; negative values are void."""
    [classes] = result.classes.values()
    for value in np.unique(values[values >= 0]).tolist():
        mask = values == value
        yield Region(classes[value // divisor].name, None, _box_of(mask), mask)


def _box_of(mask: np.ndarray) -> np.ndarray:
    """The box xyxy around a mask's pixels."""
    ys, xs = np.nonzero(mask)
    return np.array([xs.min(), ys.min(), xs.max() + 1, ys.max() + 1], np.float32)
