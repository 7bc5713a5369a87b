"""Heads warn of images with more objects than they predict."""

from types import SimpleNamespace

import numpy as np
import pytest

from densevit.interfaces import Head
from tests.recorded_warnings import recorded_warnings


def test_the_first_image_with_more_objects_than_a_head_predicts_is_reported_once():
    kind = type("A", (Head,), {"task": "a", "required_targets": ("labels",), "num_queries": 3, "max_predictions": None})
    head, maps = kind([], [], []), type("B", (kind,), {"required_targets": ("semantic",)})([], [], [])
    for counts in (None, [], np.array([1, 3])):
        head.check(SimpleNamespace(object_counts=lambda counts=counts: counts))
    with recorded_warnings() as messages:
        for counts in ([], [3, 0], [4, 5], [9, 9]):
            head.warn_of_objects(counts, ["a", "b"])
        head.check(SimpleNamespace(object_counts=lambda: np.array([9])))
        maps.check(SimpleNamespace())  # a map has no number of objects
    message = "image 'b' has 5 objects, but num_queries is 3: 2 of them cannot be predicted. Fix: set num_queries to at"
    assert messages == [f"{message} least 5."]
    smaller = type("C", (kind,), {"required_targets": ("panoptic",), "max_predictions": 2})([], [], [])
    with pytest.warns(UserWarning, match=r"^2 of 3 training .* one of them has 9 segments, but max_predictions is 2:"):
        smaller.check(SimpleNamespace(object_counts=lambda: np.array([4, 2, 9])))
