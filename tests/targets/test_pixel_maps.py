"""densevit/targets/pixel_maps.py, and what all types with values per pixel share, on cases worked by hand."""

import cv2
import numpy as np
import pytest
import torch

from densevit.errors import DataError
from densevit.interfaces import IGNORE, Class
from densevit.targets import Depth, InverseDepth, LabelMap, PanopticMap, TargetTypes, ValueMap, VectorMap
from densevit.targets.pixel_maps import painted

CLASSES = (Class("cat", 17, (255, 0, 0)), Class("sky", 300, (0, 0, 255), thing=False))


@pytest.mark.parametrize("kind", [LabelMap(), Depth(), VectorMap(), PanopticMap()])
def test_maps_follow_flip_crop_and_resize(kind):
    """Twice a flip gives the map again; a crop of the flip is the flip of the crop; each pixel is enlarged to four."""
    size = (6, 8)
    value = kind.random(size, 2, 2, np.random.default_rng(0))
    assert np.array_equal(kind.hflip(kind.hflip(value, size), size), value)
    left = kind.crop(value, (0, 0, 6, 3), size)
    right = kind.crop(kind.hflip(value, size), (0, 5, 6, 8), size)
    assert np.array_equal(kind.hflip(left, (6, 3)), right)
    twice = kind.resize(value, size, (12, 16))
    assert np.array_equal(twice[..., ::2, ::2], value) and np.array_equal(twice[..., 1::2, 1::2], value)


@pytest.mark.parametrize(
    ("kind", "dtype", "fill"), [(LabelMap(), np.uint8, IGNORE), (Depth(), np.float32, 0), (PanopticMap(), np.int32, -1)]
)
def test_new_corners_and_padding_are_unlabelled(kind, dtype, fill):
    value = np.full((20, 20), 7, dtype)
    rotated = kind.rotate(value, cv2.getRotationMatrix2D((9.5, 9.5), 45, 1.0), (20, 20))
    assert rotated.dtype == dtype and rotated[0, 0] == fill and rotated[10, 10] == 7
    padded = kind.collate([torch.from_numpy(value), None], (22, 25))
    assert padded.shape == (2, 22, 25) and padded.dtype == kind.dtype
    assert padded[0, 21, 24] == fill and padded[0, 19, 19] == 7 and (padded[1] == fill).all()


def test_depth_is_divided_by_the_zoom():
    value = np.full((4, 4), 6.0, np.float32)
    assert Depth().resize(value, (4, 4), (8, 8), zoom=2.0)[0, 0] == 3
    assert InverseDepth().resize(value, (4, 4), (8, 8), zoom=2.0)[0, 0] == 12
    assert ValueMap().resize(value, (4, 4), (8, 8), zoom=2.0)[0, 0] == 6


def test_vectors_change_sign_with_a_flip_and_turn_with_the_image():
    value = np.zeros((3, 10, 10), np.float32)
    value[0], value[2] = 0.6, -0.8  # to the right and towards the camera
    assert VectorMap().hflip(value, (10, 10))[:, 0, 0] == pytest.approx([-0.6, 0, -0.8])
    matrix = np.array([[0.0, 1, 0], [-1, 0, 9]])  # counterclockwise: what points right points up
    assert VectorMap().rotate(value, matrix, (10, 10))[:, 5, 5] == pytest.approx([0, -0.6, -0.8])
    assert VectorMap(y_up=True).rotate(value, matrix, (10, 10))[:, 5, 5] == pytest.approx([0, 0.6, -0.8])


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (LabelMap(), np.array([[0, 1], [1, 0]], np.uint8)),
        (Depth(), np.array([[0, 1.5], [20, 300]], np.float32)),
        (VectorMap(), np.random.default_rng(0).random((3, 2, 2), dtype=np.float32)),
        (PanopticMap(), np.array([[-1, 0], [1000, 0]], np.int32)),
    ],
)
def test_encoded_maps_are_read_back(kind, value):
    assert np.array_equal(kind.decode(kind.encode(value, CLASSES), CLASSES), value)


@pytest.mark.parametrize(
    ("kind", "value", "message"),
    [
        (VectorMap(), np.zeros((4, 5), np.float32), r"has shape \(4, 5\); expected \(3, 4, 5\)"),
        (Depth(), np.zeros((4, 5), np.uint8), "has the type uint8; expected floating-point"),
        (LabelMap(), np.zeros((4, 5), np.uint16), r"has the type uint16; expected uint8"),
        (LabelMap(), np.zeros((4, 6), np.uint8), r"has shape \(4, 6\); expected \(4, 5\)"),
    ],
)
def test_wrong_values_are_described(kind, value, message):
    with pytest.raises(DataError, match=message):
        kind.check(value, (4, 5))


def test_under_zoom_says_what_resize_does():
    """Predictions at another size are converted back by it."""
    factors = {"divide": 0.5, "multiply": 2, "keep": 1}
    types = {key: target for key, target in TargetTypes().items() if target.per == "pixel"}
    assert {"depth", "inverse_depth", "normals"} <= types.keys()
    for key, target in types.items():
        if hasattr(target, "random"):
            value = np.asarray(target.random((8, 8), 2, 3, np.random.default_rng(0)))
            resized = np.asarray(target.resize(value, (8, 8), (8, 8), zoom=2.0))
            np.testing.assert_allclose(resized, factors[target.under_zoom] * value, err_msg=key)


def test_pasted_values_are_painted_at_covered_pixels_of_a_copy():
    value = np.zeros((3, 3), np.uint8)
    result = painted(value, np.array([[7, 8]], np.uint8), np.array([[False, True]]))
    assert result.tolist() == [[0, 8, 0], [0, 0, 0], [0, 0, 0]] and not value.any()
