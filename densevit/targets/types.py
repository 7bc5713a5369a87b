"""The target types of a data set's or a head's keys: explicit types, or else the types registered under the keys."""

import functools
from collections.abc import Collection, Iterator, Mapping
from numbers import Number
from typing import Any

import numpy as np
from torch import Tensor

from densevit import registry
from densevit.errors import DataError
from densevit.interfaces import Dataset, Head, TargetType

GENERAL_KEYS = ("image_id", "size", "original_size", "truth")  # of every image (`Targets`)


class TargetTypes(Mapping[str, TargetType]):
    """The target type of each key.

    types: explicit types; other keys have the type registered under their name. num_classes: the number of classes by
    task, for checks of class indices; for tasks without a number they are not checked.
    """

    def __init__(
        self,
        types: Mapping[str, TargetType | None] | Collection[str] | None = None,
        num_classes: Mapping[str | None, int] | None = None,
    ) -> None:
        explicit = types._types if isinstance(types, TargetTypes) else types if isinstance(types, Mapping) else {}
        for key, value in explicit.items():
            if not isinstance(value, TargetType | None):
                raise DataError(f"The type of the target {key!r} is {value!r}; expected an instance of TargetType.")
        self._types: dict[str, TargetType | None] = {key: value for key, value in explicit.items() if value is not None}
        self.num_classes: Mapping[str | None, int] = dict(num_classes or {})

    @classmethod
    def of(cls, dataset: Dataset) -> "TargetTypes":
        """Returns the types of a data set's keys, with the number of its classes."""
        classes = getattr(dataset, "classes", {})
        return cls(getattr(dataset, "provides", None), {task: len(names) for task, names in classes.items()})

    @classmethod
    def for_head(cls, head: Head) -> "TargetTypes":
        """Returns the types of a head's keys. The class indices of all keys that it requires are its own."""
        types = cls(head.target_types)
        tasks = {types[key].task for key in head.required_targets if key in types}
        types.num_classes = dict.fromkeys(tasks - {None}, len(head.classes))
        return types

    def __getitem__(self, key: str) -> TargetType:
        if key not in self._types:
            is_registered = key in registry.find("targets")
            self._types[key] = _registered(key, registry.load("targets", key)) if is_registered else None
        target_type = self._types[key]
        if target_type is None:
            raise KeyError(key)
        return target_type

    def __iter__(self) -> Iterator[str]:
        typed = {key for key, target_type in self._types.items() if target_type is not None}
        return iter(sorted(typed.union(registry.find("targets"))))

    def __len__(self) -> int:
        return len([*self])


@functools.cache
def _registered(key: str, target_class: type[TargetType]) -> TargetType:
    """The registered type of a key without options; one instance, as the checks of options take longer than a type."""
    return create_target(key)


def above_threshold(
    predictions: Mapping[str, Any], threshold: float | None, types: Mapping[str, TargetType]
) -> dict[str, Any]:
    """Removes objects whose score is below the threshold. NaN is kept, so that it is seen."""
    if threshold is None or "scores" not in predictions:
        return dict(predictions)
    return with_objects(predictions, ~(predictions["scores"] < threshold), types)


def with_objects(predictions: Mapping[str, Any], keep: Tensor, types: Mapping[str, TargetType]) -> dict[str, Any]:
    """Keeps some objects. keep: (N,) bool."""
    per_object = {key for key in predictions if key in types and types[key].per == "object"}
    return {key: value[keep] if key in per_object else value for key, value in predictions.items()}


def as_array(values: Any) -> np.ndarray:
    """Converts predicted values to an array, floating-point tensors to float32."""
    if isinstance(values, Tensor):
        values = values.detach() if values.requires_grad else values
        values = values if values.device.type == "cpu" else values.cpu()
        values = (values.float() if values.is_floating_point() else values).numpy()  # numpy has no bfloat16
    return np.asarray(values)


def has_place(target: TargetType) -> bool:
    """Whether values have places in the image: values of objects or pixels, and those that move with it."""
    return target.per != "image" or is_geometric(target)


def is_geometric(target: TargetType) -> bool:
    """Whether values move with their image: maps, and types that override a geometric method. Labels do not."""
    methods = ("hflip", "rotate", "crop", "resize")
    overridden = (getattr(type(target), name) is not getattr(TargetType, name) for name in methods)
    return target.per == "pixel" or any(overridden)


def registered_tasks() -> set[str]:
    """Returns the tasks of the registered types. Leaves out plugins that cannot be imported."""
    return {target.task for target in registry.load_all("targets")} - {None}


def create_target(name: str, **options: Any) -> TargetType:
    """Builds the target type that is registered under a key.

    Example:
        >>> densevit.create_target("semantic").per
        'pixel'
    """
    return registry.create("targets", name, options=options, where=f"target {name!r}")


def untyped_keys(targets: Mapping[str, Any], types: Mapping[str, TargetType]) -> list[str]:
    """Returns the keys without a type whose values may depend on the image's geometry."""
    return [
        key
        for key, value in targets.items()
        if key not in GENERAL_KEYS and not is_metadata(value) and types.get(key) is None
    ]


def is_metadata(value: Any) -> bool:
    """Whether a value needs no type: strings, single numbers, None, lists of strings, and dicts of these."""
    if isinstance(value, Tensor | np.ndarray):
        return value.ndim == 0
    if isinstance(value, Mapping):
        return all(map(is_metadata, value.values()))
    if isinstance(value, list | tuple):
        return all(isinstance(item, str) for item in value)
    return value is None or isinstance(value, str | bytes | Number | np.generic)
