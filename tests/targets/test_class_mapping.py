"""Class indices of every registered target type under a mapping."""

import numpy as np
import pytest

from densevit import registry
from densevit.interfaces import Class
from densevit.targets.class_mapping import SupportsMapClasses
from densevit.targets.types import TargetTypes

THINGS = tuple(Class(str(n), n, (n, n, n)) for n in range(6))


def test_the_types_with_class_indices_map_them():
    mapped = {key for key, kind in TargetTypes().items() if isinstance(kind, SupportsMapClasses)}
    assert mapped == {"labels", "semantic", "panoptic", "panoptic_crowds", "image_class", "class_scores"}


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
    none = kind.map_classes(value, np.full(6, -1), ())
    assert (none == (-1 if key == "labels" else kind.fill)).all()
