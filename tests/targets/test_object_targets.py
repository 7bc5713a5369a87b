"""densevit/targets/object_targets.py, on cases worked by hand and against albumentations and pycocotools."""

import numpy as np
import pytest
from pycocotools import mask as codes

from densevit.errors import DataError
from densevit.interfaces import Class
from densevit.targets import Boxes, CrowdFlags, InstanceMasks, ObjectLabels, RunLengthMasks, Scores

CLASSES = (Class("cat", 17, (255, 0, 0)), Class("dog", 18, (0, 0, 255)))
SIZE = (60, 80)


def test_boxes_follow_flip_crop_and_resize():
    boxes = np.array([[10, 20, 30, 50]], np.float32)
    assert Boxes().hflip(boxes, SIZE) == pytest.approx(np.array([[50, 20, 70, 50]]))
    cropped = Boxes().crop(boxes, (10, 5, 50, 25), SIZE)  # 40 high, 20 wide
    assert cropped == pytest.approx(np.array([[5, 10, 25, 40]]))
    assert Boxes().resize(cropped, (40, 20), (80, 10)) == pytest.approx(np.array([[2.5, 20, 12.5, 80]]))
    assert Boxes().clip(cropped, (40, 20)) == pytest.approx(np.array([[5, 10, 20, 40]]))


def test_boxes_outside_of_a_crop_without_area_and_crowds_are_left_out():
    boxes = np.array([[10.0, 20, 30, 50], [70, 20, 80, 30], [24.9999, 20, 40, 30], [24, 0, 30, 30]])
    cropped = Boxes().crop(boxes, (0, 0, 60, 25), SIZE)
    assert Boxes().visible(cropped, (60, 25)).tolist() == [True, False, False, True]
    boxes = np.array([[1.0, 1, 5, 5], [3, 3, 3, 9], [-9, 0, -1, 5], [79, 0, 99, 5]])
    assert Boxes().usable(boxes, SIZE).tolist() == [True, False, False, True]
    assert CrowdFlags().usable(np.array([0, 1]), SIZE).tolist() == [True, False]


@pytest.mark.parametrize(
    ("kind", "value", "message"),
    [
        (Boxes(), np.zeros(4), r"has shape \(4,\); expected \(N, 4\)"),
        (ObjectLabels(), np.zeros(4), "has the type float64; expected integers"),
        (InstanceMasks(), np.zeros((2, 60, 80), bool), r"is a ndarray; expected RunLengthMasks\. Fix: .*from_dense\("),
    ],
)
def test_wrong_values_are_described(kind, value, message):
    with pytest.raises(DataError, match=message):
        kind.check(value, SIZE)


def test_detections_are_entries_of_coco_results():
    boxes = np.array([[1.5, 2, 11.5, 22]], np.float32)
    columns = Boxes().encode(boxes, CLASSES) | ObjectLabels().encode(np.array([1]), CLASSES)
    columns |= Scores().encode(np.array([0.25], np.float32), CLASSES)
    [entry] = [{name: values[0].tolist() for name, values in columns.items()}]
    assert entry == {"bbox": [1.5, 2, 10, 20], "category_id": 18, "score": 0.25}
    assert np.array_equal(Boxes().decode([entry], CLASSES), boxes)
    assert ObjectLabels().decode([entry], CLASSES).tolist() == [1]


def test_masks_are_run_length_codes_of_pycocotools():
    masks = np.random.default_rng(0).random((3, *SIZE)) < 0.5
    encoded = InstanceMasks().encode(masks, CLASSES)
    entries = [{"segmentation": code} for code in encoded["segmentation"]]
    assert codes.area(encoded["segmentation"]).tolist() == masks.sum(axis=(1, 2)).tolist()
    assert np.array_equal(np.asarray(InstanceMasks().decode(entries, CLASSES)), masks)
    assert InstanceMasks().encode(RunLengthMasks.from_dense(masks, SIZE), CLASSES) == encoded


def test_boxes_rotate_about_the_centre():
    """A quarter turn of a square image."""
    matrix = np.array([[0.0, 1, 0], [-1, 0, 9]])  # (x, y) -> (y, 9 - x), between pixel centres of a 10 x 10 image
    assert Boxes().rotate(np.array([[1, 2, 3, 6]], np.float32), matrix, (10, 10)) == pytest.approx(
        np.array([[2, 7, 6, 9]])
    )


def test_boxes_in_another_format_are_an_error() -> None:
    with pytest.raises(DataError, match="have x2 < x1 or y2 < y1 in 1 of 2: are they xywh"):
        Boxes().check(np.array([[50, 10, 20, 20], [1, 1, 9, 9]]), (100, 80))


def test_boxes_that_are_relative_or_of_another_image_size_are_implausible() -> None:
    relative = np.array([[0.1, 0.2, 0.5, 1.0], [0.0, 0.0, 0.3, 0.3]])
    assert "are they relative" in Boxes().implausible([(relative, (100, 80))], 0)
    large = np.array([[90.0, 10, 110, 20], [5, 90, 20, 120], [1, 1, 9, 9]])
    problem = Boxes().implausible([(large[:1], (100, 80)), (large[1:], (100, 80))], 0)
    assert "lie outside of their image in 2 of 3 cases, as in one of 80 x 100" in problem
    assert not Boxes().implausible([(large, (100, 80)), (large[2:], (100, 80))], 0)  # 2 of 4


@pytest.mark.parametrize(
    "boxes",
    [
        [],
        [[5, 5, 5, 9]],  # without width
        [[0, 0, 0, 0]],
        [[0, 0, 1, 1]],  # the first pixel
        [[-3, -2, 90, 120]],  # larger than the image
        [[0.1, 0.2, 0.5, 1.0], [4, 4, 9, 9]],
    ],
)
def test_degenerate_and_outside_boxes_stay_valid(boxes: list[list[float]]) -> None:
    value = np.array(boxes, np.float64).reshape(-1, 4)
    Boxes().check(value, (100, 80))
    assert not Boxes().implausible([(value, (100, 80))], 0)
