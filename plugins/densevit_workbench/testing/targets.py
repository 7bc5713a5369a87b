"""Random targets for checking heads without a data set, and the protocols of target types that provide them."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch

from densevit.interfaces import Size, Targets, TargetType
from densevit.targets.types import TargetTypes


@runtime_checkable
class SupportsRandom(Protocol):
    """A target type with random values, on which `densevit check` tests heads."""

    def random(self, size: Size, objects: int, num_classes: int, rng: np.random.Generator) -> Any:
        """A valid value. objects: the number of objects; with 0, maps have no labelled pixel."""


@runtime_checkable
class SupportsUnlabelled(Protocol):
    """A target type with unlabelled values, on which `densevit check` tests heads."""

    def unlabelled(self, size: Size) -> Sequence[Any]:
        """Values that losses and evaluators treat like a missing key, also at single pixels."""


@runtime_checkable
class SupportsCheckPrediction(Protocol):
    """A target type that checks predictions unlike targets, for `densevit check`."""

    def check_prediction(self, value: Any, size: Size, num_classes: int) -> None:
        """Like `TargetType.check`, for a predicted value: finite, in original pixels."""


def has_random(key: str, types: Mapping[str, TargetType]) -> bool:
    """Whether a target key's type implements `random`."""
    return key in types and isinstance(types[key], SupportsRandom)


def check_prediction(target: TargetType, value: Any, size: Size, num_classes: int) -> None:
    """Raises DataError for a predicted value of the wrong shape, type or range."""
    if isinstance(target, SupportsCheckPrediction):
        target.check_prediction(value, size, num_classes)
    else:
        target.check(value, size)


def random_targets(
    required_targets: Collection[str],
    size: tuple[int, int],
    num_classes: int,
    generator: torch.Generator,
    objects: int = 3,
    image_id: int = 0,
    original_size: tuple[int, int] | None = None,
    types: Mapping[str, TargetType] | None = None,
) -> Targets:
    """Random targets of one image: `image_id`, `size`, `original_size`, and the keys of `required_targets` with a type.

    size: (h, w) in pixels, at least 8 each. objects: the number of objects; with 0, `boxes` has the shape (0, 4), and
    all pixels are unlabelled. Values per object are consistent: masks match the boxes. types: the target type of each
    key; by default the registered types.
    """
    target_types = types if isinstance(types, TargetTypes) else TargetTypes(types)
    seed = int(torch.randint(2**31, (), generator=generator))
    targets: Targets = {"image_id": image_id, "size": size, "original_size": original_size or size}
    for key in (key for key in required_targets if key in target_types):
        target_type = target_types[key]
        if not isinstance(target_type, SupportsRandom):
            continue
        value = target_type.random(size, objects, num_classes, np.random.default_rng(seed))
        targets[key] = torch.from_numpy(value) if isinstance(value, np.ndarray) else value
    return targets
