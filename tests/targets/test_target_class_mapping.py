"""densevit/targets/target_class_mapping.py: class indices of every target type under a mapping."""

import numpy as np
import pytest

from densevit import registry
from densevit.interfaces import Class
from densevit.targets import ObjectLabels, TargetTypes
from densevit.targets.target_class_mapping import with_classes

THINGS = tuple(Class(str(n), n, (n, n, n)) for n in range(6))


@pytest.mark.parametrize("key", ["labels", "semantic", "panoptic"])
def test_the_identity_changes_nothing_and_a_permutation_can_be_undone(key):
    kind = registry.load("targets", key)()
    value = kind.random((24, 32), 5, 6, np.random.default_rng(0))
    same = kind.map_classes(value, np.arange(6), THINGS)
    assert np.array_equal(np.asarray(same), np.asarray(value)) and type(same) is type(value)
    assert np.asarray(same).dtype == np.asarray(value).dtype
    order = np.array([3, 0, 5, 1, 4, 2])
    mapped = kind.map_classes(value, order, THINGS)
    assert np.array_equal(kind.map_classes(mapped, np.argsort(order), THINGS), value)
    assert not np.array_equal(mapped, value)


def test_objects_without_a_new_class_are_removed_with_all_their_values():
    """An object stays if each of its labels has a new class."""
    values = {"labels": np.array([0, 1, 2]), "boxes": np.arange(12).reshape(3, 4), "image_id": "a"}
    table = np.array([1, -1, 0])
    mapped = with_classes(values, lambda task: (table, THINGS[:2]), TargetTypes())
    assert {key: np.asarray(value).tolist() for key, value in mapped.items()} == {
        "labels": [1, 0], "boxes": [[0, 1, 2, 3], [8, 9, 10, 11]], "image_id": "a",
    }  # fmt: skip
    types = TargetTypes({"parts": ObjectLabels()})
    mapped = with_classes({**values, "parts": np.array([1, 0, 0])}, lambda task: (table, THINGS[:2]), types)
    assert (mapped["labels"].tolist(), mapped["parts"].tolist()) == ([0], [1])
    assert with_classes(values, lambda task: None, TargetTypes()) == values
