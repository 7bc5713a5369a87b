"""Random targets for running a head without a data set."""

from collections.abc import Collection, Mapping

import numpy as np
import torch

from densevit.interfaces import Targets, TargetType
from densevit.targets.types import TargetTypes


def has_random(key: str, types: Mapping[str, TargetType]) -> bool:
    """Whether a target key has a type that implements `random`."""
    return key in types and type(types[key]).random is not TargetType.random


def random_targets(
    needs: Collection[str],
    size: tuple[int, int],
    num_classes: int,
    generator: torch.Generator,
    objects: int = 3,
    image_id: int = 0,
    original_size: tuple[int, int] | None = None,
    types: Mapping[str, TargetType] | None = None,
) -> Targets:
    """Random targets of one image: `image_id`, `size`, `original_size`, and those keys of `needs` that have a type.

    size: (h, w) in pixels, at least 8 each. objects: the number of objects; with 0, `boxes` has the shape (0, 4), and
    all pixels are unlabelled. Values per object are consistent: masks match the boxes. types: the target type of each
    key; by default the registered types.
    """
    known = types if isinstance(types, TargetTypes) else TargetTypes(types)
    seed = int(torch.randint(2**31, (), generator=generator))
    targets: Targets = {"image_id": image_id, "size": size, "original_size": original_size or size}
    for key in (key for key in needs if has_random(key, known)):
        value = known[key].random(size, objects, num_classes, np.random.default_rng(seed))
        targets[key] = torch.from_numpy(value) if isinstance(value, np.ndarray) else value
    return targets
