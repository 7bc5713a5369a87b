"""Checks of the target values of images, the same for data sets, batches, losses and evaluators."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from densevit.errors import DataError
from densevit.interfaces import Size, TargetType
from densevit.targets.run_length_masks import RunLengthMasks


def check_values(values: Mapping[str, Any], types: Mapping[str, TargetType], size: Size) -> None:
    """Raises DataError for an image with a value as in `check_value`, or with values per object of different lengths.

    values: the typed values of the image, as arrays.
    """
    for key, value in values.items():
        check_value(key, value, types, size)
    check_lengths(values, types)


def check_value(key: str, value: Any, types: Mapping[str, TargetType], size: Size) -> None:
    """Raises DataError for a value with a wrong shape, type or range. The message begins with the key.

    types: if they know the number of classes of the value's task (`TargetTypes.num_classes`), class indices are checked
    too. size: (h, w) of the image.
    """
    target_type = types[key]
    num_classes = _num_classes(target_type, types)
    try:
        if target_type.per != "image" and not isinstance(value, np.ndarray | RunLengthMasks):
            raise DataError(f"is a {type(value).__name__}; expected a tensor.")
        if target_type.per == "object" and value.ndim == 0:
            raise DataError("is a single number; expected one row per object.")
        target_type.check(value, size)
        if num_classes:
            target_type.check_classes(value, num_classes)
    except DataError as error:
        raise DataError(f"{key} {error}") from None


def check_lengths(values: Mapping[str, Any], types: Mapping[str, TargetType]) -> None:
    """Raises DataError for values per object of different lengths."""
    lengths = {key: len(value) for key, value in values.items() if types[key].per == "object"}
    if len(set(lengths.values())) > 1:
        counts = ", ".join(f"{key} {count}" for key, count in lengths.items())
        raise DataError(f"targets differ in length: {counts}.")


def implausible(key: str, values: Sequence[tuple[Any, Size]], types: Mapping[str, TargetType]) -> str:
    """What is probably wrong with the values of several images, as `TargetType.implausible` says; "" if nothing."""
    return types[key].implausible(values, _num_classes(types[key], types))


def _num_classes(target_type: TargetType, types: Mapping[str, TargetType]) -> int:
    """The number of classes of a type's task; 0 if it is not known."""
    num_classes: Mapping[str | None, int] = getattr(types, "num_classes", {})
    return num_classes.get(target_type.task, 0)
