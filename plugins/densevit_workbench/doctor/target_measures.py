"""Measures of target values: sizes of boxes and masks, labelled pixels, frequencies of classes."""

import functools
from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

import numpy as np

from densevit.data.transforms.sample_augmentation import class_map
from densevit.interfaces import IGNORE, VOID, Size, TargetType
from densevit.targets import LabelMap, PanopticMap, ValueMap
from densevit.targets.keypoints import Keypoints
from densevit.targets.object_targets import Boxes, InstanceMasks, ObjectLabels
from densevit.targets.run_length_masks import RunLengthMasks

KNOWN_VALUES = "known values"
MEASURED_VALUES = 4096  # per map, at most


@runtime_checkable
class SupportsMeasure(Protocol):
    """A target type with measures for `densevit doctor`."""

    def measure(self, value: Any, size: Size | np.ndarray) -> Mapping[str, np.ndarray]:
        """Numbers (M,) by name and unit. Arguments as for the function `measure`."""


@runtime_checkable
class SupportsClassCounts(Protocol):
    """A target type that counts classes itself for `densevit doctor`, instead of pixels per class."""

    def class_counts(self, value: Any, num_classes: int) -> np.ndarray | None:
        """(K,), the number of objects or pixels of each class; None without classes."""


def measure(target_type: TargetType, value: Any, size: Size | np.ndarray) -> Mapping[str, np.ndarray]:
    """Measures of a value, (M,) by name and unit: {"width (px)": ...}; empty for an unknown type.

    size: (h, w) of the image, or (N, 2) for objects of several images, the size of each object's image.
    """
    return (
        target_type.measure(value, size)
        if isinstance(target_type, SupportsMeasure)
        else _measure(target_type, value, size)
    )


def class_counts(target_type: TargetType, value: Any, num_classes: int) -> np.ndarray | None:
    """(K,), the number of objects or pixels of each class; None for a type without classes."""
    if isinstance(target_type, SupportsClassCounts):
        return target_type.class_counts(value, num_classes)
    if isinstance(target_type, ObjectLabels):
        return np.bincount(value[(value >= 0) & (value < num_classes)], minlength=num_classes)
    labels = class_map(target_type, value)
    return None if labels is None else np.bincount(labels.ravel(), minlength=256)[:num_classes]


@functools.singledispatch
def _measure(target_type: TargetType, value: Any, size: Size | np.ndarray) -> dict[str, np.ndarray]:
    return {}


@_measure.register
def _(target_type: Boxes, value: np.ndarray, size: Size | np.ndarray) -> dict[str, np.ndarray]:
    sides = value[:, 2:].astype(np.float64) - value[:, :2]
    width, height = sides.T
    with np.errstate(divide="ignore", invalid="ignore"):  # degenerate boxes
        share = np.sqrt(width * height / np.prod(np.asarray(size, np.float64), axis=-1))
        ratio = width / height
    return {"width (px)": width, "height (px)": height, "width / height": ratio, "relative side": share}


@_measure.register
def _(target_type: InstanceMasks, value: RunLengthMasks, size: Size | np.ndarray) -> dict[str, np.ndarray]:
    return {"area (px)": value.areas().astype(np.float64)}


@_measure.register
def _(target_type: Keypoints, value: np.ndarray, size: Size | np.ndarray) -> dict[str, np.ndarray]:
    return {"labelled keypoints": (value[..., 2] > 0).sum(axis=1).astype(np.float64)}


@_measure.register
def _(target_type: LabelMap, value: np.ndarray, size: Size | np.ndarray) -> dict[str, np.ndarray]:
    return {"labelled pixels": _share(value[value != IGNORE], value)}


@_measure.register
def _(target_type: ValueMap, value: np.ndarray, size: Size | np.ndarray) -> dict[str, np.ndarray]:
    """A sample of the known values, and the share of known pixels."""
    valid = value[value > 0]
    return {KNOWN_VALUES: valid[:: -(-len(valid) // MEASURED_VALUES) or 1], "known pixels": _share(valid, value)}


@_measure.register
def _(target_type: PanopticMap, value: np.ndarray, size: Size | np.ndarray) -> dict[str, np.ndarray]:
    labelled = value[value != VOID]
    return {"segments": np.array([len(np.unique(labelled))], np.float64), "labelled pixels": _share(labelled, value)}


def _share(labelled: np.ndarray, value: np.ndarray) -> np.ndarray:
    return np.array([labelled.size / max(value.size, 1)])
