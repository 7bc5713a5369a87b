"""densevit/data/io/rgb_files.py: pixels of all modes and bit depths become RGB of 8 bits."""

import cv2
import numpy as np
import pytest
from PIL import Image

from densevit.data.io.images import read_image
from tests.data.io.conftest import H, W


def test_grey_black_and_white_and_alpha_become_rgb(pixels, save):
    grey, alpha = pixels[..., 0], Image.fromarray(pixels[..., 1])
    bits = grey % 3 == 0
    color = Image.fromarray(pixels)
    color.putalpha(alpha)
    for image, expected in ((grey, grey[..., None]), (bits, 255 * bits[..., None]), (color, pixels)):
        assert np.array_equal(read_image(save(image, "PNG")), np.broadcast_to(expected, (H, W, 3)))


@pytest.mark.parametrize("transparency", [None, 1, bytes([0, 128, 255])])
def test_palette_images_are_converted_despite_transparency(transparency, save):
    colors = np.array([[10, 20, 30], [250, 0, 5], [7, 200, 99]], np.uint8)
    indices = np.random.default_rng(0).integers(0, 3, (H, W)).astype(np.uint8)
    image = Image.fromarray(indices)
    image.putpalette(colors.tobytes())
    path = save(image, "GIF") if transparency is None else save(image, "PNG", transparency=transparency)
    with Image.open(path) as saved:
        assert saved.mode == "P"
    assert np.array_equal(read_image(path), colors[indices])


def test_cmyk_jpegs_are_converted(save):
    cyan, black, paper = (255, 0, 0, 0), (0, 0, 0, 255), (0, 0, 0, 0)
    for ink, color in {cyan: (0, 255, 255), black: (0, 0, 0), paper: (255, 255, 255)}.items():
        path = save(Image.new("CMYK", (W, H), ink), "JPEG", quality=95)
        assert np.abs(read_image(path).astype(int) - color).max() <= 3


@pytest.mark.parametrize("suffix", [".png", ".tiff"])
def test_16_bit_values_are_divided_by_257_and_rounded(suffix, tmp_path):
    values = np.array([[0, 128, 129, 257], [30000, 32768, 65535 - 129, 65535]], np.uint16)
    expected = np.array([[0, 0, 1, 1], [117, 128, 254, 255]], np.uint8)
    grey, color, alpha = (tmp_path / f"{name}{suffix}" for name in ("grey", "color", "alpha"))
    cv2.imwrite(str(grey), values)
    assert np.array_equal(read_image(grey), np.stack([expected] * 3, axis=2))
    cv2.imwrite(str(color), np.stack([values, values[::-1], values[:, ::-1]], axis=2))  # blue, green, red
    assert np.array_equal(read_image(color), np.stack([expected[:, ::-1], expected[::-1], expected], axis=2))
    cv2.imwrite(str(alpha), np.stack([values, values[::-1], values[:, ::-1], values // 2], axis=2))
    assert np.array_equal(read_image(alpha), read_image(color))
    path = tmp_path / "image.pgm"
    path.write_bytes(b"P5 2 1 65535\n" + np.array([257 * 3, 65535], ">u2").tobytes())
    assert read_image(path).tolist() == [[[3, 3, 3], [255, 255, 255]]]
