"""Class indices of every registered target type under a mapping, and target types of image classification."""

import numpy as np
import pytest

from densevit import registry
from densevit.errors import DataError
from densevit.interfaces import Class
from densevit.targets import ClassScores, ImageClass, ImageScore, TargetTypes
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


CLASSES = tuple(Class(name, i, (40 * i, 255, 0)) for i, name in enumerate("abcdefg"))


def test_classes_are_mapped_and_scores_summed():
    table = np.array([1, -1, 1, 0])
    assert [int(ImageClass().map_classes(np.array(k), table, CLASSES[:2])) for k in range(4)] == [1, -1, 1, 0]
    assert ImageClass().map_classes(np.array(-1), table, CLASSES[:2]) == -1, "no class, not the last one"
    scores = np.array([0.1, 0.4, 0.2, 0.3], np.float32)
    np.testing.assert_allclose(ClassScores().map_classes(scores, table, CLASSES[:2]), [0.3, 0.3], rtol=1e-6)


def test_objects_without_a_new_class_are_removed_with_all_their_values():
    values = {"labels": np.array([0, 1, 2]), "boxes": np.arange(12).reshape(3, 4), "image_id": "a"}
    mapped = with_classes(values, lambda task: (np.array([1, -1, 0]), CLASSES[:2]), TargetTypes())
    assert {key: np.asarray(value).tolist() for key, value in mapped.items()} == {
        "labels": [1, 0], "boxes": [[0, 1, 2, 3], [8, 9, 10, 11]], "image_id": "a",
    }  # fmt: skip
    assert with_classes({"image_id": "a"}, lambda task: None, TargetTypes()) == {"image_id": "a"}


def test_files_have_names_and_the_five_highest_scores():
    scores = np.array([0.02, 0.5, 0.03, 0.25, 0.1, 0.04, 0.06], np.float32)
    encoded = ClassScores().encode(scores, CLASSES)
    assert list(encoded) == ["b", "d", "e", "g", "f"] and encoded["d"] == 0.25
    decoded = ClassScores().decode(encoded, CLASSES)
    assert decoded[[0, 2]].tolist() == [0, 0] and decoded[1] == scores[1]
    assert ImageClass().encode(np.array(3), CLASSES) == "d" and ImageClass().decode("d", CLASSES) == 3
    assert ImageClass().decode(ImageClass().encode(np.array(-1), CLASSES), CLASSES) == -1
    assert ImageScore().decode(ImageScore().encode(np.array(0.25, np.float32), CLASSES), CLASSES) == 0.25


@pytest.mark.parametrize(
    ("kind", "value", "message"),
    [
        (ImageClass(), np.array([1, 2]), r"is int64 of shape \(2,\); expected a class index, one integer"),
        (ImageScore(), np.array(1.5, np.float32), r"1\.5"),
        (ClassScores(), np.array(0.5), r"expected \(K,\)"),
    ],
)
def test_wrong_values_are_errors(kind, value, message):
    with pytest.raises(DataError, match=message):
        kind.check(value, (4, 4))
