"""densevit/targets/types.py: explicit and registered types of keys, and values that need none."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from densevit.errors import DataError
from densevit.targets import Boxes, Depth, LabelMap, TargetTypes, is_metadata
from densevit.targets.types import above_threshold, untyped_keys


def test_explicit_types_come_before_registered_ones():
    far = Depth(scale=0.1)
    dataset: Any = SimpleNamespace(provides={"far": far, "semantic": None})
    types = TargetTypes.of(dataset)
    assert types["far"] is far and isinstance(types["semantic"], LabelMap) and isinstance(types["boxes"], Boxes)
    assert {"far", "semantic", "boxes"} <= set(types) and types.get("unknown") is None
    with pytest.raises(DataError, match="'far' is 'depth'; expected an instance of TargetType"):
        TargetTypes({"far": "depth"})  # type: ignore[dict-item]


def test_objects_below_the_threshold_are_removed_with_all_their_values():
    predictions = {"scores": torch.tensor([0.2, 0.5]), "labels": torch.tensor([4, 7]), "semantic": torch.zeros(2, 2)}
    found = above_threshold(predictions, 0.5, TargetTypes())
    assert (found["labels"].tolist(), found["semantic"].shape) == ([7], (2, 2))
    assert above_threshold(predictions, None, TargetTypes()) == predictions


def test_arrays_of_unknown_keys_are_untyped_and_plain_values_are_metadata():
    plain = {"place": "Ulm", "score": 0.5, "none": None, "words": ["a"], "deep": {"n": np.float32(1)}}
    assert all(map(is_metadata, plain.values())) and not is_metadata([1, 2])
    assert untyped_keys({**plain, "boxes": np.zeros((1, 4)), "points": np.zeros((1, 2))}, TargetTypes()) == ["points"]
