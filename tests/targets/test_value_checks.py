"""The values of an image's targets are checked by their types, with the classes of the data set or the head."""

from typing import Any

import numpy as np
import pytest

import densevit
from densevit.errors import DataError
from densevit.targets.types import TargetTypes
from densevit.targets.value_checks import check_values, implausible

SIZE = (6, 8)
TASKS = ("detection", "segmentation", "panoptic", "classification")
TYPES = TargetTypes(num_classes=dict.fromkeys(TASKS, 3))


def label_map(value: int) -> np.ndarray:
    labels = np.full(SIZE, 255, np.uint8)
    labels[0, :2] = value
    return labels


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"semantic": label_map(3)},
            "semantic has class 3, and 2 pixels of no class; expected 0 to 2, or 255 = ignored",
        ),
        ({"semantic": label_map(1)[:3]}, "semantic has shape"),
        ({"panoptic": np.full(SIZE, 3000, np.int32)}, "panoptic ranges from 3000 to 3000; expected -1 to 2999"),
        ({"image_class": np.array(3)}, "image_class ranges from 3 to 3; expected -1 to 2"),
        ({"class_scores": np.full(2, 0.5)}, "class_scores has 2 scores; expected 3"),
        ({"labels": np.array([0, 3])}, "labels ranges from 0 to 3; expected 0 to 2"),
        ({"labels": np.array([0, 1]), "boxes": np.zeros((1, 4))}, "targets differ in length: labels 2, boxes 1"),
        ({"labels": [0, 1]}, "labels is a list; expected a tensor"),
        ({"labels": np.array(1)}, "labels is a single number"),
    ],
)
def test_wrong_values_are_named(values: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=f"^{message}"):
        check_values(values, TYPES, SIZE)


def test_right_values_and_unknown_numbers_of_classes_are_accepted() -> None:
    ids = np.array([[-1, 0], [1001, 2999]], np.int32)
    check_values({"semantic": label_map(2), "image_class": np.array(-1)}, TYPES, SIZE)
    check_values({"panoptic": ids}, TYPES, (2, 2))
    check_values({"semantic": label_map(200)}, TargetTypes(), SIZE)


def test_the_classes_of_a_data_set_are_those_that_its_values_may_have() -> None:
    scenes = densevit.create_dataset("scenes", image_size=64, train_length=1)
    types = TargetTypes.of(scenes)
    assert types.num_classes == {task: len(classes) for task, classes in scenes.classes.items()}


@pytest.mark.parametrize(("zeros", "ignored", "ones"), [(9, 1, 0), (9, 1, 1), (0, 9, 0), (200, 1, 0)])
def test_masks_of_0_and_255_are_implausible_for_two_classes(zeros: int, ignored: int, ones: int) -> None:
    labels = np.repeat(np.array([0, 255, 1], np.uint8), [zeros, ignored, ones])[None]
    problem = implausible("semantic", [(labels, labels.shape)], TargetTypes(num_classes={"segmentation": 2}))
    assert bool(problem) == ((zeros, ignored, ones) == (9, 1, 0))
    assert not implausible("semantic", [(labels, labels.shape)], TYPES)
