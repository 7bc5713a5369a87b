"""Checks of the targets that heads learn from, the same for every way to train a model."""

import math
import warnings
from collections.abc import Mapping, Sequence
from numbers import Integral
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from densevit.errors import DataError
from densevit.interfaces import Head, Size, Targets
from densevit.layers.tracing import has_values
from densevit.losses.distributed import cpu_copy_of, with_cpu_copy
from densevit.model.running_checks import RunningChecks
from densevit.targets.pixel_maps import PixelMap
from densevit.targets.semantic_maps import TORCH_IGNORE
from densevit.targets.types import TargetTypes, as_array, is_geometric
from densevit.targets.value_checks import check_lengths, check_value, implausible

GENERAL_TARGETS = {  # the keys of every target
    "image_id": "the image's id, an int or a string",
    "size": "(height, width) of the image in the batch, without padding",
    "original_size": "(height, width) of the image file",
}


_ANY = (math.inf, math.inf)


def is_labelled(target: Targets, head: Head) -> bool:
    """Whether an image has all labels that a head needs."""
    return all(key in target for key in head.required_targets)


def check_labelled(targets: Sequence[Targets], heads: Mapping[str, Head]) -> None:
    """Raises DataError unless an image has all labels that one of the heads needs."""
    if not heads or any(is_labelled(target, head) for head in heads.values() for target in targets):
        return
    keys = [str(key) for key in dict.fromkeys(key for target in targets for key in target)]
    labels = [key for key in keys if key not in GENERAL_TARGETS]
    needs = [f"heads.{name} needs {', '.join(head.required_targets)}" for name, head in heads.items()]
    raise DataError(
        f"No image of the targets has the labels that a head needs: {'; '.join(needs)}. Found: "
        f"{', '.join(labels) or 'nothing'}. Fix: use these keys; an image without objects has boxes (0, 4) and labels "
        "(0,)."
    )


class CheckedTargets(list[Targets]):
    """Targets that are checked and converted for a head."""


class TargetChecks:
    """Checks targets, and converts their values to the types that losses take.

    Values on the CPU, and those with a copy there, are checked in each batch. Reading others waits for their device, so
    they are checked in the first batch of their kind only: with this key, type and number of dimensions. Shapes are
    checked in each batch.

    name: the head's name. types: the target types, with the number of the head's classes. keys: the checked keys.
    """

    def __init__(self, name: str, types: TargetTypes, keys: Sequence[str]) -> None:
        self.name, self.types = name, types
        self._keys = [key for key in keys if key in types]
        self._need_size = {key for key in self._keys if is_geometric(types[key])}
        self._running = RunningChecks()

    def checked(
        self,
        targets: Sequence[Targets],
        seen: set[Any],
        refused: Literal["invalid", "implausible objects", "implausible"] = "implausible objects",
    ) -> list[Targets]:
        """The targets, with labels as int64, boxes as float32 and label maps as uint8.

        Raises DataError for targets without `size`, values that are no tensors, and values of another shape, type or
        range (`check_value`). seen: the kinds of values that were read before, to which those of this batch are added.
        refused: the values that raise DataError; implausible ones (`TargetType.implausible`) are looked for in the
        first batch of their kind. With "implausible objects", implausible maps are a warning, because a batch may show
        few classes.
        """
        converted: list[Targets] = []
        first: dict[str, list[tuple[Any, Size]]] = {}
        new = set()
        for index, target in enumerate(targets):
            labels = {key: target[key] for key in self._keys if key in target}
            check_target(target, f"targets[{index}]", ("size",) if self._need_size & labels.keys() else ())
            height, width = target.get("size", (1, 1))
            size = (int(height), int(width))
            try:
                for key in labels:
                    labels[key] = value = self._converted(key, labels[key], seen)
                    kind = self._kind(key, value)
                    if not _is_readable(value, is_new=kind not in seen):
                        _check_shape(key, value, self.types, size)
                        continue
                    array = as_array(cpu_copy_of(value)) if isinstance(value, Tensor) else value
                    check_value(key, array, self.types, size)
                    if kind not in seen and not (isinstance(array, np.ndarray) and array.size == 0):
                        new.add(kind)
                        first.setdefault(key, []).append((array, size))
                check_lengths(labels, self.types)
            except DataError as error:
                raise DataError(f"image {target.get('image_id', index)!r}: {error}") from None
            converted.append({**target, **labels})
        if refused != "invalid":
            self._check_plausible(first, targets, seen | new, raises_for_maps=refused == "implausible")
        seen |= new
        return converted

    def object_counts(self, targets: Sequence[Targets]) -> dict[int | str, int]:
        """The number of objects of each labelled image, by its id, for keys with a row per object."""
        keys = [key for key in self._keys if self.types[key].per == "object"][:1]
        return {
            target.get("image_id", index): len(target[key])
            for key in keys
            for index, target in enumerate(targets)
            if key in target
        }

    def _kind(self, key: str, value: Any) -> tuple[Any, ...]:
        """What the values that are read once have in common."""
        return (self.name, key, getattr(value, "dtype", None), getattr(value, "ndim", 0))

    def _converted(self, key: str, value: Any, seen: set[Any]) -> Any:
        """The value in the type's dtype. Floating-point numbers do not become integers, nor integers maps of
        floating-point numbers."""
        target_type = self.types[key]
        dtype = getattr(target_type, "dtype", None)
        if not isinstance(value, Tensor) or dtype is None or value.dtype == dtype:
            return value
        is_integer = not value.is_floating_point() and not value.is_complex()
        if isinstance(target_type, PixelMap):
            is_integer_map = is_integer and not dtype.is_floating_point
            return self._integer_map(key, value, target_type, seen) if is_integer_map else value
        if not is_integer and not dtype.is_floating_point and value.numel():
            return value
        copy = cpu_copy_of(value)
        return value.to(dtype) if copy is value else with_cpu_copy(value.to(dtype), copy.to(dtype))

    def _integer_map(self, key: str, value: Tensor, target_type: PixelMap, seen: set[Any]) -> Tensor:
        """A map of other integers in the type's dtype. Raises DataError for values that are neither a class nor
        ignored; on a GPU in a later call, until when these pixels are ignored. Warns once of torch's ignored value."""
        num_classes = self.types.num_classes.get(target_type.task, 0)
        wide = value.long()
        converted, wrong = target_type.from_integers(wide, num_classes)

        def check(count: float, negated_low: float, high: float, ignored: float) -> None:
            if count:
                example = high if high > 0 else -negated_low
                classes = f"0 to {num_classes - 1}" if num_classes else f"{target_type.dtype}"
                raise DataError(
                    f"{key} has values of no class in {count:,.0f} pixels, such as {example:.0f}; expected {classes}, "
                    f"or {target_type.fill:g} = ignored."
                )
            if ignored and (self.name, key, TORCH_IGNORE) not in seen:
                seen.add((self.name, key, TORCH_IGNORE))
                warnings.warn(f"{key}: {TORCH_IGNORE} is ignored, like {target_type.fill:g}.", stacklevel=2)

        low, high = wide.where(wrong, 0).aminmax()
        facts = torch.stack([wrong.sum(), -low, high, (wide == TORCH_IGNORE).sum()])
        self._running.update(key, facts.float(), check)
        return converted

    def _check_plausible(
        self,
        values: Mapping[str, list[tuple[Any, Size]]],
        targets: Sequence[Targets],
        seen: set[Any],
        raises_for_maps: bool,
    ) -> None:
        """Raises DataError for implausible values. Maps get a warning unless `raises_for_maps`; those in which torch's
        ignored value was seen are plausible."""
        for key, pairs in values.items():
            problem = implausible(key, pairs, self.types)
            if not problem or (self.name, key, TORCH_IGNORE) in seen:
                continue
            images = [target.get("image_id", index) for index, target in enumerate(targets)]
            message = f"images {images}: {key} {problem}"
            if self.types[key].per != "pixel" or raises_for_maps:
                raise DataError(message)
            warnings.warn(message, stacklevel=2)


def _is_readable(value: Any, is_new: bool) -> bool:
    """Whether the values are read: on the CPU always, on other devices if they are of a new kind."""
    if not isinstance(value, Tensor):
        return True
    copy = cpu_copy_of(value)
    return has_values(copy) and (copy.device.type == "cpu" or is_new)


def _check_shape(key: str, value: Tensor, types: TargetTypes, size: Size) -> None:
    """Raises DataError for a tensor that is not read, unless it has one row per object, or the image's size."""
    if types[key].per == "object" and value.ndim == 0:
        raise DataError(f"{key} is a single number; expected one row per object.")
    if types[key].per == "pixel" and tuple(value.shape[-2:]) != size:
        raise DataError(f"{key} has shape {tuple(value.shape)}; expected {size}, like the image.")


def check_target(target: Any, where: str, keys: Sequence[str], image_size: tuple[float, ...] = _ANY) -> None:
    """Raises DataError unless a target is a dict with some general keys, whose sizes are valid (`check_sizes`)."""
    if not isinstance(target, Mapping):
        raise DataError(f"{where} is a {type(target).__name__}; a dict is expected.")
    for key in keys:
        if key not in target:
            raise DataError(
                f"{where} lacks {key!r}; found: {', '.join(target)}. Fix: set it to {GENERAL_TARGETS[key]}."
            )
    check_sizes(target, image_size, where)


def check_sizes(targets: Mapping[str, Any], image_size: tuple[float, ...], origin: str) -> None:
    """Raises DataError unless `size` and `original_size`, where the targets have them, are two positive ints each, and
    `size` is within the image. image_size: its height and width."""
    for key, limits in (("size", image_size), ("original_size", _ANY)):
        size = targets.get(key, (1, 1))
        if not isinstance(size, tuple | list) or [isinstance(side, Integral) for side in size] != [True, True]:
            raise DataError(
                f"{origin}: {key} is {size!r}, a {type(size).__name__}; a tuple of two ints, (height, width), is "
                f"expected. Fix: {key} = tuple(map(int, {key}))."
            )
        if not all(0 < side <= limit for side, limit in zip(size, limits, strict=True)):
            raise DataError(
                f"{origin}: {key} is {size}, and the image has (height, width) {image_size}. Fix: set size to that of "
                "the image, without padding."
            )


def described(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"{str(value.dtype).removeprefix('torch.')} {tuple(value.shape)}"
    return f"a {type(value).__name__}"
