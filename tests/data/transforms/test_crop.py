"""The transforms `crop`: random scales, crops of several classes, photometric distortion, ignored padding."""

from typing import Any

import numpy as np
import pytest

from densevit import config
from densevit.data.transforms.crop import Crop
from densevit.errors import ConfigError
from densevit.interfaces import IGNORE


def test_scales_are_uniform_and_relative_to_the_short_side():
    transforms, rng = Crop(512, 512), np.random.default_rng(0)
    frames = [transforms.training_crop(1024, 1536, rng) for _ in range(3000)]
    scales = np.array([size[0] / (bottom - top) for (top, _, bottom, _), size in frames])
    assert 0.249 < scales.min() < 0.26 and 0.98 < scales.max() < 1.01  # half and twice 512 / 1024
    assert scales.mean() == pytest.approx(0.625, abs=0.01)
    assert np.median(scales) == pytest.approx(0.625, abs=0.015)  # a scale uniform in its logarithm has 0.5 here
    for (top, left, bottom, right), (h, w) in frames:
        assert 0 <= top < bottom <= 1024 and 0 <= left < right <= 1536
        assert h <= 512 and w <= 512
        assert h / (bottom - top) == pytest.approx(w / (right - left), rel=0.004)  # whole pixels of the image
    assert {size for _, size in frames} > {(512, 512)}
    tops = np.array([top / (1024 - bottom + top) for (top, _, bottom, _), _ in frames if bottom - top < 1000])
    assert abs(tops.mean() - 0.5) < 0.02 and tops.min() < 0.01 and tops.max() > 0.99


@pytest.mark.parametrize(
    ("scales", "image", "window", "size"),
    [
        ((1, 1), (50, 70), (50, 70), (50, 70)),  # smaller than the crop: the whole image
        ((1, 1), (100, 200), (96, 128), (96, 128)),
        ((2, 2), (100, 200), (48, 64), (96, 128)),
        ((0.5, 0.5), (150, 400), (150, 256), (75, 128)),  # its height fits, its width does not
        ((0.5, 0.5), (301, 99), (192, 99), (96, 50)),
        ((0.75, 0.75), (1, 1000), (1, 171), (1, 128)),
    ],
)
def test_windows_and_sizes_by_hand(scales, image, window, size):
    frame = Crop((96, 128), scales=scales).training_crop(*image, np.random.default_rng(0))
    top, left, bottom, right = frame.window
    assert ((bottom - top, right - left), frame.size) == (window, size)


@pytest.mark.parametrize(
    ("semantic", "tries"),
    [
        (np.zeros((100, 100), np.uint8), 10),
        (np.full((100, 100), IGNORE, np.uint8), 10),
        (np.tile(np.array([0, 0, 0, 0, 1], np.uint8), (100, 20)), 10),  # 80 %
        (np.tile(np.array([0, 0, 0, 0, 1, 2, 255, 255, 255, 255], np.uint8), (100, 10)), 1),  # 67 % of the labelled
        (np.zeros((40, 50), np.uint8), 1),  # fits into the crop: there is no other crop
        (None, 1),
    ],
)
def test_crops_are_retried_at_most_ten_times(semantic, tries):
    """Each try draws the two numbers of a place."""
    height, width = (100, 100) if semantic is None else semantic.shape
    rng, expected = np.random.default_rng(0), np.random.default_rng(0)
    frame = Crop((60, 50), scales=(1, 1)).training_crop(height, width, rng, semantic)
    expected.uniform(1, 1)  # the scale
    for _ in range(tries):
        expected.integers(height - frame.size[0] + 1), expected.integers(width - frame.size[1] + 1)
    assert frame.size == (min(60, height), 50) and rng.random() == expected.random()


def written(**keys: Any) -> dict[str, Any]:
    return {
        "backbone": {"name": "swin"},
        "heads": {"segmentation": {"name": "setr"}},
        "data": {"name": "label_maps", **keys},
        "trainer": {"max_steps": 1},
    }


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"transforms": {"short_side": 512}}, r"data\.transforms\.name is missing"),
        ({"transforms": {"name": "crop", "scalse": [1, 2]}}, r"data\.transforms\.scalse .*'crop'.*'scales'"),
        ({"transforms": {"name": "crop", "scales": [2, 0.5]}}, r"data\.transforms\.scales .*\[2, 0\.5\]"),
        ({"transforms": {"name": "crop", "scales": 2}}, r"scales should be a valid tuple, not 2"),
        ({"transforms": {"name": "crop", "short_side": 0}}, r"data\.transforms\.short_side should be"),
    ],
)
def test_invalid_key_error_names_key_and_fix(keys, message):
    with pytest.raises(ConfigError, match=message):
        config.check_plugins(config.from_mapping(written(**{"image_size": 64, **keys})))
    with pytest.raises(ConfigError, match=r"data\.image_size is missing: .*'crop'"):
        Crop(None)
