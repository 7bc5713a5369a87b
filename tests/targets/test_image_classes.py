"""densevit/targets/image_classes.py: the class of an image and the scores of all classes, in files and checks."""

import numpy as np
import pytest

from densevit.errors import DataError
from densevit.interfaces import Class
from densevit.targets import ClassScores, ImageClass, ImageScore

CLASSES = tuple(Class(name, i, (40 * i, 255, 0)) for i, name in enumerate("abcdefg"))


def test_classes_are_mapped_and_scores_summed():
    table = np.array([1, -1, 1, 0])
    assert [int(ImageClass().map_classes(np.array(k), table, CLASSES[:2])) for k in range(4)] == [1, -1, 1, 0]
    assert ImageClass().map_classes(np.array(-1), table, CLASSES[:2]) == -1, "no class, not the last one"
    scores = np.array([0.1, 0.4, 0.2, 0.3], np.float32)
    np.testing.assert_allclose(ClassScores().map_classes(scores, table, CLASSES[:2]), [0.3, 0.3], rtol=1e-6)


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
