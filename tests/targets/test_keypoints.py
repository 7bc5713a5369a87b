"""densevit/targets/keypoints.py, on cases worked by hand."""

import numpy as np
import pytest

from densevit.errors import DataError
from densevit.targets import Keypoints

SIZE = (60, 80)


def test_keypoints_follow_flip_crop_and_resize():
    """A flip exchanges left and right; those outside of a crop are unlabelled. Boxes decide which objects remain."""
    kind = Keypoints(("nose", "left_eye", "right_eye"))
    points = np.array([[[40, 10, 2], [45, 8, 1], [0, 0, 0]]], np.float32)
    assert kind.hflip(points, SIZE).tolist() == [[[40, 10, 2], [0, 0, 0], [35, 8, 1]]]
    kind, points = Keypoints(("a", "b")), np.array([[[40, 10, 2], [10, 50, 1]]], np.float32)
    cropped = kind.crop(points, (0, 30, 30, 50), SIZE)
    assert cropped.tolist() == [[[10, 10, 2], [0, 0, 0]]]
    assert kind.resize(cropped, (30, 20), (60, 10)).tolist() == [[[5, 20, 2], [0, 0, 0]]]
    assert kind.visible(cropped, (30, 20)) is None


def test_keypoints_rotate_about_the_centre():
    """A quarter turn of a square image: (x, y) -> (y, 9 - x) between pixel centres of 10 x 10, (y, 10 - x) in edges."""
    points = np.array([[[1, 2, 2], [3, 6, 1]]], np.float32)
    rotated = Keypoints(("a", "b")).rotate(points, np.array([[0.0, 1, 0], [-1, 0, 9]]), (10, 10))
    assert rotated == pytest.approx(np.array([[[2, 9, 2], [6, 7, 1]]]))


def test_keypoints_are_written_with_pixel_centres_at_whole_numbers():
    kind = Keypoints(("a", "b"))
    entries = [{"keypoints": [3, 4, 2, 0, 0, 0]}]  # as COCO's files have them
    points = kind.decode(entries, ())
    assert points.tolist() == [[[3.5, 4.5, 2], [0, 0, 0]]]
    assert kind.encode(points, ()) == {"keypoints": [entries[0]["keypoints"]]}


@pytest.mark.parametrize("value", [np.zeros((1, 3, 3)), np.full((1, 2, 3), np.nan)], ids=["shape", "nan"])
def test_wrong_values_are_errors(value):
    with pytest.raises(DataError, match=r"expected \(N, 2, 3\)|not finite"):
        Keypoints(("a", "b")).check(value, SIZE)
