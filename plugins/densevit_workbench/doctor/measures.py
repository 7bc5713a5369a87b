"""Numbers that describe target values: sizes of boxes and masks, labelled pixels, frequencies of classes.

A target type of a third party may have `measure(value, size)` and `class_counts(value, num_classes)`, which give what
the functions here give for the built-in types.
"""

import functools
from collections.abc import Mapping
from typing import Any

import numpy as np

from densevit.interfaces import IGNORE, VOID, Size, TargetType
from densevit.targets.keypoints import Keypoints
from densevit.targets.maps import LabelMap, PanopticMap, ValueMap
from densevit.targets.objects import Boxes, InstanceMasks, ObjectLabels
from densevit.targets.run_length_masks import RunLengthMasks

MEASURED_VALUES = 4096  # per map, at most


def measure(kind: TargetType, value: Any, size: Size | np.ndarray) -> Mapping[str, np.ndarray]:
    """Numbers (M,) that describe a value, by name and unit: {"width (px)": ...}; none for an unknown type.

    size: (h, w) of the image, or (N, 2), the size of each object's image: values per object may be of several images.
    """
    method = getattr(kind, "measure", None)
    numbers: Mapping[str, np.ndarray] = _measure(kind, value, size) if method is None else method(value, size)
    return numbers


def class_counts(kind: TargetType, value: Any, num_classes: int) -> np.ndarray | None:
    """(K,), the number of objects or pixels of each class; None for a type without classes."""
    method = getattr(kind, "class_counts", None)
    if method is not None:
        counts: np.ndarray | None = method(value, num_classes)
        return counts
    if isinstance(kind, ObjectLabels):
        return np.bincount(value[(value >= 0) & (value < num_classes)], minlength=num_classes)
    labels = kind.class_map(value)
    return None if labels is None else np.bincount(labels.ravel(), minlength=256)[:num_classes]


@functools.singledispatch
def _measure(kind: TargetType, value: Any, size: Size | np.ndarray) -> dict[str, np.ndarray]:
    return {}


@_measure.register
def _(kind: Boxes, value: np.ndarray, size: Size | np.ndarray) -> dict[str, np.ndarray]:
    sides = value[:, 2:].astype(np.float64) - value[:, :2]
    width, height = sides.T
    with np.errstate(divide="ignore", invalid="ignore"):  # degenerate boxes
        share = np.sqrt(width * height / np.prod(np.asarray(size, np.float64), axis=-1))
        ratio = width / height
    return {"width (px)": width, "height (px)": height, "width / height": ratio, "relative side": share}


@_measure.register
def _(kind: InstanceMasks, value: RunLengthMasks, size: Size | np.ndarray) -> dict[str, np.ndarray]:
    return {"area (px)": value.areas().astype(np.float64)}


@_measure.register
def _(kind: Keypoints, value: np.ndarray, size: Size | np.ndarray) -> dict[str, np.ndarray]:
    return {"labelled keypoints": (value[..., 2] > 0).sum(axis=1).astype(np.float64)}


@_measure.register
def _(kind: LabelMap, value: np.ndarray, size: Size | np.ndarray) -> dict[str, np.ndarray]:
    return {"labelled pixels": _share(value[value != IGNORE], value)}


@_measure.register
def _(kind: ValueMap, value: np.ndarray, size: Size | np.ndarray) -> dict[str, np.ndarray]:
    """A sample of the known values, and the fraction of known pixels."""
    known = value[value > 0]
    return {"known values": known[:: -(-len(known) // MEASURED_VALUES) or 1], "known pixels": _share(known, value)}


@_measure.register
def _(kind: PanopticMap, value: np.ndarray, size: Size | np.ndarray) -> dict[str, np.ndarray]:
    known = value[value != VOID]
    return {"segments": np.array([len(np.unique(known))], np.float64), "labelled pixels": _share(known, value)}


def _share(known: np.ndarray, value: np.ndarray) -> np.ndarray:
    return np.array([known.size / max(value.size, 1)])
