"""Reading images of every kind, against known arrays and Pillow. Damaged files are in `tests/robustness`."""

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from densevit.data.io.depth_files import depth_size_of, read_depth
from densevit.data.io.images import image_header, read_image
from densevit.data.io.label_files import label_size_of, read_label
from densevit.errors import DataError
from tests.data.io.conftest import ORIENTATION, turned

H, W = 37, 53
READERS = (read_image, image_header, read_label, label_size_of, read_depth, depth_size_of)


@pytest.fixture
def pixels():
    """(H, W, 3), noise over a ramp: compressible, and different everywhere."""
    rng = np.random.default_rng(0)
    ramp = np.linspace(0, 200, H * W * 3).reshape(H, W, 3)
    return (ramp + rng.integers(0, 55, (H, W, 3))).astype(np.uint8)


@pytest.fixture
def save(tmp_path):
    """`save(image, "PNG", **options)` writes a Pillow image and returns its path. orientation: of EXIF."""

    def save(image: Image.Image | np.ndarray, format: str, orientation: int | None = None, **options: object) -> Path:
        path = tmp_path / f"image.{format.lower()}"
        image = image if isinstance(image, Image.Image) else Image.fromarray(image)
        if orientation is not None:
            options["exif"] = exif = Image.Exif()
            exif[ORIENTATION] = orientation
        image.save(path, format, **options)
        return path

    return save


def test_lossless_formats_round_trip(pixels, save):
    for format, options in {"BMP": {}, "PPM": {}, "WEBP": {"lossless": True}}.items():
        path = save(pixels, format, **options)
        assert np.array_equal(read_image(path), pixels) and read_image(path).flags.writeable
        assert image_header(path).upright_size == (H, W)


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


KINDS = {1: "TIFF", 2: "PNG", 3: "JPEG", 4: "WEBP", 5: "TIFF", 6: "PNG", 7: "JPEG", 8: "TIFF", 42: "PNG"}


def test_exif_orientation_is_applied(pixels, save):
    for orientation, format in KINDS.items():
        path = save(pixels, format, orientation)
        stored = np.asarray(Image.open(path).convert("RGB"))
        expected = turned(stored if format != "TIFF" else pixels, orientation if orientation < 9 else 1)
        assert np.array_equal(torch.from_numpy(read_image(path)), expected), orientation
        assert image_header(path).upright_size == expected.shape[:2]
        if format != "TIFF":  # which Pillow rotates itself
            assert np.array_equal(read_image(path, upright=False), stored)
    stored = np.arange(6, dtype=np.uint16).reshape(2, 3)
    found = torch.from_numpy(read_image(save(stored * 257, "TIFF", 8)))[..., 0]
    assert found.tolist() == turned(stored, 8).tolist()


@pytest.mark.parametrize("format", ["JPEG", "PNG"])
def test_the_end_of_a_file_may_have_more_bytes_but_not_fewer(format, pixels, save):
    path = save(pixels, format)
    data, expected = path.read_bytes(), np.asarray(Image.open(path).convert("RGB"))
    path.write_bytes(data + b"a camera's own notes" * 20)
    assert image_header(path).size == (H, W) and np.array_equal(read_image(path), expected)
    path.write_bytes(data[: len(data) // 2])
    for use in (read_image, image_header):
        with pytest.raises(DataError, match=path.name):
            use(path)


def test_a_tiff_of_several_pages_is_an_error(tmp_path):
    page = Image.new("L", (5, 4))
    page.save(tmp_path / "pages.tif", save_all=True, append_images=[page, page])
    for read in READERS:
        with pytest.raises(DataError, match=r"pages\.tif: it has 3 pages; expected 1"):
            read(tmp_path / "pages.tif")
    with pytest.raises(
        DataError, match=r"Fix: .* data\.channels='\[red, green, blue\]', which reads pages as channels"
    ):
        read_image(tmp_path / "pages.tif")
