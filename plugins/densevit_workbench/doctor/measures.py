"""Numbers that describe target values: sizes of boxes and masks, labelled pixels, frequencies of classes."""

import functools
from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

import numpy as np

from densevit.data.transforms.crop_label_maps import class_map
from densevit.interfaces import IGNORE, VOID, Size, TargetType
from densevit.targets import LabelMap, PanopticMap, ValueMap
from densevit.targets.keypoints import Keypoints
from densevit.targets.object_targets import Boxes, InstanceMasks, ObjectLabels
from densevit.targets.run_length_masks import RunLengthMasks

MEASURED_VALUES = 4096  # per map, at most


@runtime_checkable
class SupportsMeasure(Protocol):
    """A target type whose values `densevit doctor` describes by numbers."""

    def measure(self, value: Any, size: Size | np.ndarray) -> Mapping[str, np.ndarray]:
        """Numbers (M,) that describe a value, by name and unit; the arguments are those of the function `measure`."""


@runtime_checkable
class SupportsClassCounts(Protocol):
    """A target type whose classes `densevit doctor` counts in another way than the pixels of a map with a task."""

    def class_counts(self, value: Any, num_classes: int) -> np.ndarray | None:
        """(K,), the number of objects or pixels of each class; None without classes."""


def measure(kind: TargetType, value: Any, size: Size | np.ndarray) -> Mapping[str, np.ndarray]:
    """Numbers (M,) that describe a value, by name and unit: {"width (px)": ...}; none for an unknown type.

    size: (h, w) of the image, or (N, 2), the size of each object's image: values per object may be of several images.
    """
    return kind.measure(value, size) if isinstance(kind, SupportsMeasure) else _measure(kind, value, size)


def class_counts(kind: TargetType, value: Any, num_classes: int) -> np.ndarray | None:
    """(K,), the number of objects or pixels of each class; None for a type without classes."""
    if isinstance(kind, SupportsClassCounts):
        return kind.class_counts(value, num_classes)
    if isinstance(kind, ObjectLabels):
        return np.bincount(value[(value >= 0) & (value < num_classes)], minlength=num_classes)
    labels = class_map(kind, value)
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
