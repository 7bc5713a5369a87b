"""Corruptions beside other libraries and formulas by hand, with the parameters of ImageNet-C's released code."""

import io

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import ndimage, stats

from densevit.errors import ConfigError
from densevit_probes.corruptions import CORRUPTIONS, SEVERITIES, corrupted

HEIGHT, WIDTH = 40, 60


def image(seed: int = 0) -> np.ndarray:
    """Smooth colours, and a square."""
    waves = ndimage.gaussian_filter(np.random.default_rng(seed).random((HEIGHT, WIDTH, 3)), (3, 3, 0))
    waves = (waves - waves.min()) / (waves.max() - waves.min())
    waves[10:20, 10:30] = (0.9, 0.2, 0.4)
    return (255 * waves).round().astype(np.uint8)


def batch(*ids: str, size: tuple[int, int] = (HEIGHT, WIDTH)):
    """An image per id, padded with 7, whose values depend on its id."""
    images = torch.full((len(ids), 3, HEIGHT + 8, WIDTH + 20), 7, dtype=torch.uint8)
    mask = torch.ones(len(ids), HEIGHT + 8, WIDTH + 20, dtype=torch.bool)
    mask[:, : size[0], : size[1]] = False
    for i, image_id in enumerate(ids):
        pixels = torch.from_numpy(image(ord(image_id))).permute(2, 0, 1)
        images[i, :, : size[0], : size[1]] = pixels[:, : size[0], : size[1]]
    targets = [{"image_id": image_id, "size": size} for image_id in ids]
    return {"images": images, "padding_mask": mask, "targets": targets}


def result(name: str, severity: int) -> np.ndarray:
    data = corrupted(batch("a"), name, severity)
    return data["images"][0, :, :HEIGHT, :WIDTH].permute(1, 2, 0).numpy().astype(float)


@pytest.mark.parametrize(("severity", "sigma"), [(1, 1), (3, 3), (5, 6)])
def test_blur_is_scipy_s(severity, sigma):
    expected = ndimage.gaussian_filter(image(97).astype(float), (sigma, sigma, 0), mode="nearest")
    np.testing.assert_allclose(result("gaussian_blur", severity), expected, atol=0.6)


@pytest.mark.parametrize(("severity", "deviation"), [(1, 0.08), (3, 0.18), (5, 0.38)])
def test_noise_has_the_deviation(severity, deviation):
    """The share of rounded values within 20 of a grey of 128 is the normal distribution's."""
    data = batch("a")
    data["images"][:] = 128
    values = corrupted(data, "gaussian_noise", severity)["images"][0, :, :HEIGHT, :WIDTH].float() - 128
    expected = 1 - 2 * stats.norm.cdf(-20.5 / (255 * deviation))
    assert float((values.abs() <= 20).float().mean()) == pytest.approx(expected, abs=0.02)


@pytest.mark.parametrize(("severity", "value", "share"), [(1, 0.1, 0.4), (3, 0.3, 0.2), (5, 0.5, 0.05)])
def test_brightness_and_contrast_by_hand(severity, value, share):
    """Brightness scales a pixel by the new and the old maximum of its channels; contrast scales around the mean."""
    x = image(97) / 255
    maximum = x.max(2, keepdims=True)
    expected = 255 * x / maximum * np.minimum(maximum + value, 1)
    np.testing.assert_allclose(result("brightness", severity), expected, atol=1)
    mean = x.mean((0, 1))
    np.testing.assert_allclose(result("contrast", severity), 255 * ((x - mean) * share + mean), atol=0.6)


def box(length: int, scale: float) -> np.ndarray:
    """A matrix (length, length) of means over the pixels whose centres are in the same cell of a coarser grid."""
    cells = ((np.arange(length) + 0.5) * int(length * scale) / length).astype(int)
    shared = cells[:, None] == cells
    return shared / shared.sum(1, keepdims=True)


@pytest.mark.parametrize(("severity", "scale"), [(1, 0.6), (2, 0.5), (5, 0.25)])
def test_pixelate_averages_the_cells_of_a_coarser_grid(severity, scale):
    expected = np.einsum("yY,xX,YXc->yxc", box(HEIGHT, scale), box(WIDTH, scale), image(97))
    np.testing.assert_allclose(result("pixelate", severity), expected, atol=1)


@pytest.mark.parametrize(("severity", "quality"), [(1, 25), (3, 15), (5, 7)])
def test_jpeg_compression_is_pillow_s(severity, quality):
    file = io.BytesIO()
    Image.fromarray(image(97)).save(file, "JPEG", quality=quality)
    assert np.abs(result("jpeg_compression", severity) - np.asarray(Image.open(file)).astype(float)).mean() < 1


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_only_pixels_inside_the_image_change_whatever_the_batch(name):
    """Strongest with the last severity; equal for an image alone, and for the next call; the input stays."""
    size = (33, 50)
    data = batch("a", "b", size=size)
    before, padding = data["images"].clone(), data["padding_mask"][:, None].expand(-1, 3, -1, -1)
    errors = []
    for severity in SEVERITIES:
        found = corrupted(data, name, severity)
        assert torch.equal(data["images"], before) and found["targets"] is data["targets"]
        assert torch.equal(found["images"][padding], before[padding])
        alone = corrupted(batch("b", size=size), name, severity)["images"]
        assert torch.equal(alone[0], found["images"][1])
        data["images"][padding] = 200
        assert torch.equal(corrupted(data, name, severity)["images"][~padding], found["images"][~padding])
        data["images"][padding] = 7
        errors.append(float((found["images"].float() - before.float()).square().mean()))
    assert min(errors) > 0 and max(errors) == errors[2]
    other = corrupted(data, name, 3, seed=1)["images"]
    assert torch.equal(other, corrupted(data, name, 3)["images"]) == (name != "gaussian_noise")


@pytest.mark.parametrize(
    ("name", "severity", "channels", "dtype", "fact"),
    [
        ("fog", 1, 3, torch.uint8, "'fog'.*pixelate"),
        ("contrast", 0, 3, torch.uint8, "severity 0"),
        ("contrast", 1, 4, torch.uint8, "4 channels"),
        ("contrast", 1, 3, torch.float32, "float32"),
    ],
)
def test_unsuitable_corruptions_and_images_raise(name, severity, channels, dtype, fact):
    images = torch.zeros(1, channels, 8, 8, dtype=dtype)
    data = {"images": images, "padding_mask": torch.zeros(1, 8, 8, dtype=torch.bool), "targets": []}
    with pytest.raises(ConfigError, match=fact):
        corrupted(data, name, severity)
