"""Maps targets and predictions to the class indices of another list of classes."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from densevit.interfaces import Class, TargetType


@runtime_checkable
class SupportsMapClasses(Protocol):
    """A target type with class indices. Evaluating a model on data of other classes needs this method."""

    def map_classes(self, value: Any, table: np.ndarray, classes: Sequence[Class]) -> Any:
        """Returns the value with other class indices.

        table: (K,) int64, the new index of each class; -1: none. classes: the new classes. Types per object return the
        new indices (N,); objects of class -1 are then removed with all their values. In maps, pixels without a new
        class have the value `fill`.
        """


def with_classes(
    values: Mapping[str, Any],
    mapping_of: Callable[[str], tuple[np.ndarray, Sequence[Class]] | None],
    types: Mapping[str, TargetType],
) -> dict[str, Any]:
    """Maps the classes of an image's targets or predictions; removes objects without a new class.

    mapping_of: returns the table and the new classes of a task (see `SupportsMapClasses`), or None to leave its classes
    unchanged. Mapped tensors are on the CPU.
    """
    result = dict(values)
    keep: np.ndarray | None = None
    for key, value in values.items():
        target_type = types.get(key)
        if target_type is None or target_type.task is None or not isinstance(target_type, SupportsMapClasses):
            continue
        mapping = mapping_of(target_type.task)
        if mapping is None:
            continue
        array = value.cpu().numpy() if isinstance(value, Tensor) else value
        mapped = target_type.map_classes(array, *mapping)
        result[key] = torch.from_numpy(mapped) if isinstance(value, Tensor) else mapped
        if target_type.per == "object":
            keep = mapped >= 0 if keep is None else keep & (mapped >= 0)
    if keep is None or keep.all():
        return result
    objects = {key for key in result if key in types and types[key].per == "object"}
    return {key: _rows(value, keep) if key in objects else value for key, value in result.items()}


def plain_name(name: str) -> str:
    """A class name for comparisons, which ignore case, hyphens and underscores."""
    return " ".join(name.casefold().replace("_", " ").replace("-", " ").split())


def _rows(value: Any, keep: np.ndarray) -> Any:
    if isinstance(value, Tensor):
        return value[torch.from_numpy(keep).to(value.device)]
    return [item for item, kept in zip(value, keep, strict=True) if kept] if isinstance(value, list) else value[keep]
