"""Missing pixels and new pixels, in each step that resamples images or adds pixels, with any number of channels.

A brute-force reference computes each pixel as a mean of pixels, weighted by a dense matrix of the kernel's weights.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from densevit.channels import RGB, Channels
from densevit.data.transforms.crop import Crop
from densevit.data.transforms.mosaic import mosaic
from densevit.data.transforms.sample_augmentation import Augmentation, rotated, rotation_matrix
from densevit.data.transforms.sample_resizing import new_pixels, resize_image
from densevit.interfaces import Sample
from densevit.model.test_time_augmentation import _scaled
from densevit.targets import TargetTypes

SIZE = (14, 18)
ANGLE = 25.0
COUNTS, DTYPES = (1, 3, 130), ("uint8", "uint16", "float32")
SHARES = (0.02, 0.5, 0.9)  # of missing pixels


def channels_of(count: int, dtype: Any) -> Channels:
    rgb = (count, dtype) == (3, "uint8")
    return RGB if rgb else Channels(tuple(map(str, range(count))), dtype, ((-30.0, 0.0),) * count)


def image_of(count: int, dtype: str, seed: int = 0, size: tuple[int, int] = SIZE) -> np.ndarray:
    """(C, H, W) random values; of each channel in another range."""
    rng = np.random.default_rng([seed, count])
    low, high = {"uint8": (40, 250), "uint16": (3000, 60000), "float32": (-30, -5)}[dtype]
    first = np.linspace(low, (low + high) / 2, count)[:, None, None]
    values = first + (high - low) / 2 * rng.random((count, *size))
    return (values if dtype == "float32" else values.round()).astype(dtype)


def line_weights(length: int, new: int) -> np.ndarray:
    """(new, length): of a triangle filter, as wide as a new pixel and at least as wide as a pixel."""
    scale = length / new
    centres = (np.arange(new)[:, None] + 0.5) * scale
    weights = np.maximum(1 - abs(np.arange(length) + 0.5 - centres) / max(scale, 1), 0)
    weights[weights < 1e-9] = 0
    return weights / weights.sum(1, keepdims=True)


def resize_weights(size: tuple[int, int]) -> np.ndarray:
    return np.kron(line_weights(SIZE[0], size[0]), line_weights(SIZE[1], size[1]))


def bilinear_weights(position: Callable[[int, int], Any]) -> np.ndarray:
    """position: x and y in the image of a row and column."""
    weights = np.zeros((*SIZE, *SIZE))
    for row, column in np.ndindex(SIZE):
        x, y = position(row, column)
        near = np.maximum(1 - abs(np.arange(SIZE[0]) - y), 0), np.maximum(1 - abs(np.arange(SIZE[1]) - x), 0)
        weights[row, column] = np.outer(*near)
    return weights.reshape(np.prod(SIZE), -1)


def rotation_weights(_: Any) -> np.ndarray:
    """Bilinear, with sums below 1 at the border."""
    inverse = np.linalg.inv(np.vstack([rotation_matrix(SIZE, ANGLE), [0, 0, 1]]))
    return bilinear_weights(lambda row, column: (inverse @ [column, row, 1])[:2])


def weighted(image: np.ndarray, weights: np.ndarray, fill: np.ndarray) -> np.ndarray:
    """(C, N): the mean of the valid pixels (C, M) with weights (N, M); of integers, `fill` (C, 1, 1) has the rest of
    the weights. Infinite where the sum of the weights is not above rounding."""
    found = np.zeros((len(image), len(weights)))
    for c, plane in enumerate(image.reshape(len(image), -1).astype(np.float64)):
        for n, row in enumerate(weights):
            taken = ~np.isnan(plane) & (row > 0)
            total = row[taken].sum()
            if image.dtype == np.float32:
                found[c, n] = (row[taken] * plane[taken]).sum() / total if total else np.nan
            else:
                found[c, n] = row @ plane + (1 - row.sum()) * float(fill[c, 0, 0])
            if 0 < total < 1e-4:
                found[c, n] = np.inf
    return found


def last(image: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(image.transpose(1, 2, 0))


def resized(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    return resize_image(last(image), size).transpose(2, 0, 1)


def turned(image: np.ndarray, _: Any) -> np.ndarray:
    fill = new_pixels(image, channels_of(len(image), str(image.dtype))).ravel()
    return rotated(last(image), rotation_matrix(SIZE, ANGLE), fill).transpose(2, 0, 1)


def scaled(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    return _scaled(torch.from_numpy(image), size).numpy()


SMALL, LARGE, UNEVEN = (5, 7), (23, 31), (29, 8)
Resample = Callable[[np.ndarray, Any], np.ndarray]
Weights = Callable[[tuple[int, int]], np.ndarray]
RESAMPLING: dict[str, tuple[Resample, tuple[int, int], Weights]] = {
    "shrinking": (resized, SMALL, resize_weights),
    "stretching": (resized, UNEVEN, resize_weights),
    "larger scale": (scaled, LARGE, resize_weights),
    "rotation": (turned, SIZE, rotation_weights),
}


@pytest.fixture(params=RESAMPLING)
def step(request: pytest.FixtureRequest) -> tuple[Resample, tuple[int, int], Weights]:
    return RESAMPLING[request.param]


@pytest.mark.parametrize("count", COUNTS)
def test_a_resampled_pixel_is_the_mean_of_valid_pixels(step: tuple[Resample, tuple[int, int], Weights], count: int):
    """Each channel by itself, to within a level or float32's rounding. Missing only where all pixels are."""
    function, size, weights_of = step
    weights = weights_of(size)
    for dtype in DTYPES:
        image = image_of(count, dtype)
        fill = new_pixels(image, channels_of(count, dtype))
        for share in SHARES if dtype == "float32" else (0,):
            missing = np.random.default_rng(count).random(image.shape) < share
            given = np.where(missing, np.float32(np.nan), image) if share else image
            result = function(given, size)
            assert (result.dtype, result.shape) == (image.dtype, (count, *size))
            some = sorted({0, 1, 3, 4, 127, 128, count - 1} & {*range(count)})
            found = result[some].reshape(len(some), -1).astype(np.float64)
            expected = weighted(given[some], weights, fill[some])
            clear = ~np.isinf(expected)
            assert clear.mean() > 0.98
            tolerance = 1.01 if dtype != "float32" else 0.02
            np.testing.assert_allclose(found[clear], expected[clear], rtol=0, atol=tolerance)
            if share and function is not turned:
                assert np.isnan(found).mean() < share, "one valid pixel is enough"


def sample_of(number: int, count: int, dtype: str, size: tuple[int, int] = SIZE) -> Sample:
    targets = {"image_id": number, "size": size, "original_size": size}
    boxes = {"boxes": torch.tensor([[2.0, 2, 9, 9]]), "labels": torch.tensor([0])}
    return {"image": torch.from_numpy(image_of(count, dtype, 7, size)), "targets": targets | boxes}


def of_rotation(count: int, dtype: str) -> Sample:
    transforms = Crop(SIZE, scales=(1.0, 1.0), rotation=45.0)
    transforms.color_augmentation = "none"
    return Augmentation(transforms, channels=channels_of(count, dtype))(
        sample_of(0, count, dtype), np.random.default_rng(1)
    )


def of_mosaic(count: int, dtype: str) -> Sample:
    """Of a large image, which has padding at the right, and three that are smaller than their quadrants."""
    samples = [sample_of(number, count, dtype) for number in range(4)]
    large = sample_of(0, count, dtype, (40, 52))
    large["image"][:, :, 48:] = 0
    large["targets"]["size"] = (40, 48)
    result = mosaic([large, *samples[1:]], TargetTypes(), np.random.default_rng(0), channels=channels_of(count, dtype))
    assert not result["image"][:, :, 48:].float().any(), "padding"
    return result


ADDING: dict[str, Callable[[int, str], Sample]] = {"rotation": of_rotation, "mosaic": of_mosaic}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("step", ADDING)
def test_new_pixels_are_missing_or_the_channels_mean(step: str, count: int, dtype: str):
    """Where they are, the same step shows with float32 images. RGB of 8 bits stays black."""
    new = torch.isnan(ADDING[step](count, "float32")["image"])
    assert 0.02 < new.float().mean() < 0.98 and (new == new[0]).all()
    found = ADDING[step](count, dtype)["image"]
    if dtype == "float32":
        return
    for plane, value in zip(found, image_of(count, dtype, 7).mean((1, 2)).round(), strict=True):
        expected = 0 if (count, dtype) == (3, "uint8") else int(value)
        assert set(plane[new[0]].tolist()) == {expected}
