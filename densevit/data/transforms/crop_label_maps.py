"""Label maps of target values, by which transforms choose crops with several classes."""

from typing import Any, Protocol, cast, runtime_checkable

import numpy as np

from densevit.interfaces import TargetType


@runtime_checkable
class SupportsClassMap(Protocol):
    """A target type whose values give a label map, such as panoptic maps."""

    def class_map(self, value: Any) -> np.ndarray | None:
        """Returns class indices (H, W) uint8, 255 = none."""


def class_map(target: TargetType, value: Any) -> np.ndarray | None:
    """Returns the label map of a value, by `SupportsClassMap` or else the value of a type per pixel with a task; None
    for other types."""
    if issubclass(type(target), SupportsClassMap):  # cached by class: isinstance takes 40 microseconds per value
        return cast(SupportsClassMap, target).class_map(value)
    return value if target.per == "pixel" and target.task else None
