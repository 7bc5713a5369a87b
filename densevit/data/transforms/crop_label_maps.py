"""The label maps of target values, from which crops with several classes are chosen."""

from typing import Any, Protocol, cast, runtime_checkable

import numpy as np

from densevit.interfaces import TargetType


@runtime_checkable
class SupportsClassMap(Protocol):
    """A target type from whose values a label map is derived, as from panoptic maps."""

    def class_map(self, value: Any) -> np.ndarray | None:
        """Class indices (H, W) uint8, 255 = none."""


def class_map(target: TargetType, value: Any) -> np.ndarray | None:
    """The label map of a value, see `SupportsClassMap`. By default the value of a type per pixel with a task; None for
    others."""
    if issubclass(type(target), SupportsClassMap):  # cached by class: isinstance takes 40 microseconds per value
        return cast(SupportsClassMap, target).class_map(value)
    return value if target.per == "pixel" and target.task else None
