"""densevit/targets/panoptic_maps.py: classes of panoptic ids, and segments that are mapped and pasted."""

import numpy as np
import pytest

from densevit.errors import DataError
from densevit.interfaces import Class
from densevit.targets import PanopticCrowds, PanopticMap

CLASSES = (Class("cat", 17, (255, 0, 0)), Class("sky", 300, (0, 0, 255), thing=False))


def test_the_class_map_has_the_class_of_each_id_and_255_for_void():
    assert PanopticMap().class_map(np.array([[-1, 0, 999, 1000]])).tolist() == [[255, 0, 0, 1]]


def test_merged_things_are_renumbered_and_merged_stuff_is_one_segment():
    """Two classes become cat, two others become sky; the last has no new class."""
    table = np.array([0, 0, 1, 1, -1])
    value = np.array([[0, 1000, 2000, 3005, 4000, -1]], np.int32)
    assert PanopticMap().map_classes(value, table, CLASSES).tolist() == [[0, 1, 1000, 1000, -1, -1]]
    assert PanopticCrowds().map_classes([1002, 3005, 4001], table, CLASSES) == [2, 1000]


def test_pasted_things_get_unused_numbers_and_crowds_become_void():
    kind = PanopticMap()
    below = kind.separated(np.array([[0, 3, 1000]], np.int32), [3], CLASSES)
    assert below.tolist() == [[999, -1, 1000]]
    pasted = kind.separated(np.array([[0, 1000, 1000]], np.int32), [], CLASSES)
    assert kind.paste(below, pasted, np.array([[False, True, True]])).tolist() == [[999, 1000, 1000]]
    assert kind.paste(below, pasted, np.array([[True, True, False]])).tolist() == [[998, 1000, 1000]]


def test_crowds_are_a_list_of_ids():
    PanopticCrowds().check([3], (4, 4))
    with pytest.raises(DataError, match="list of panoptic ids"):
        PanopticCrowds().check(np.array([3]), (4, 4))
