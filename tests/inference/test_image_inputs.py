"""Inputs of `predict`: the pixels of each kind, and the errors."""

import io
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from densevit.errors import DataError
from densevit.inference.image_inputs import as_images, as_sample
from tests.inference.test_downloads import PIXELS, PNG, png_of, serving


def pixels_of(image: Any) -> np.ndarray:
    sample = as_sample(image, 0)
    assert sample["targets"] == {"image_id": 0, "size": (20, 30), "original_size": (20, 30)}
    assert sample["image"].dtype == torch.uint8
    return sample["image"].permute(1, 2, 0).numpy()


@pytest.fixture
def address() -> Iterator[str]:
    for server in serving("127.0.0.1"):
        yield f"http://127.0.0.1:{server.server_port}"


def test_all_kinds_of_input_have_the_same_pixels(tmp_path: Path, address: str):
    path = tmp_path / "image.png"
    path.write_bytes(PNG)
    tensor = torch.from_numpy(PIXELS).permute(2, 0, 1)
    floats = PIXELS / 255
    with path.open("rb") as file:
        inputs = [path, str(path), f"{address}/image.png", PNG, bytearray(PNG), memoryview(PNG), io.BytesIO(PNG), file]
        inputs += [Image.open(path), Image.fromarray(PIXELS), PIXELS, PIXELS[:, ::-1][:, ::-1], tensor]
        read_only = PIXELS.copy()
        read_only.flags.writeable = False
        inputs += [read_only, floats, floats.astype(np.float32), torch.from_numpy(floats).permute(2, 0, 1)]
        for given in inputs:
            assert np.array_equal(pixels_of(given), PIXELS), given


def test_grey_images_are_repeated_over_the_channels_and_floats_are_rounded(tmp_path: Path):
    grey = PIXELS[..., 0]
    (tmp_path / "grey.png").write_bytes(png_of(grey))
    tensor = torch.from_numpy(grey.copy())
    inputs = [grey, grey[..., None], Image.fromarray(grey), tmp_path / "grey.png", tensor, tensor[None], tensor / 255]
    for given in inputs:
        assert np.array_equal(pixels_of(given), np.repeat(grey[..., None], 3, axis=2))
    levels = torch.arange(256).reshape(1, 16, 16)
    for dtype in (torch.float16, torch.float32, torch.float64):
        sample = as_sample((levels.double() / 255).to(dtype), 0)
        assert torch.equal(sample["image"][0].int(), levels[0].int())


def test_bytes_are_turned_as_exif_says_and_flipped_arrays_of_one_column_are_accepted():
    file, exif = io.BytesIO(), Image.Exif()
    exif[0x0112] = 6  # a quarter turn clockwise
    Image.fromarray(PIXELS).save(file, "PNG", exif=exif)
    for given in (file.getvalue(), Image.open(file)):
        assert np.array_equal(as_sample(given, 0)["image"].permute(1, 2, 0).numpy(), np.rot90(PIXELS, -1))
    for array in (PIXELS[:5, :1], PIXELS[:1, :5]):
        for flipped, expected in ((array[:, ::-1], np.fliplr(array)), (array[::-1], np.flipud(array))):
            assert as_sample(flipped, 0)["image"].permute(1, 2, 0).tolist() == expected.tolist()


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    ("orientation", "suffix", "dtype"),
    [(n, "png" if n % 2 else "tif", np.uint8 if n % 3 else np.uint16) for n in range(1, 9)],
)
def test_grey_pil_images_from_a_file_are_turned_as_exif_says(
    orientation: int, suffix: str, dtype: type, tmp_path: Path
):
    """Pillow 13 itself mixes up the rows of uncompressed TIFFs that it opens by a path."""
    values, exif = np.arange(15).reshape(3, 5), Image.Exif()
    exif[0x0112] = orientation
    stored = values.astype(dtype) * (257 if dtype == np.uint16 else 1)
    Image.fromarray(stored).save(tmp_path / f"a.{suffix}", exif=exif)
    turned = values if orientation < 5 else values.swapaxes(0, 1)
    turned = turned[::-1] if orientation in (3, 4, 7, 8) else turned
    turned = turned[:, ::-1] if orientation in (2, 3, 6, 7) else turned
    with Image.open(tmp_path / f"a.{suffix}") as image:
        assert as_sample(image, 0)["image"][1].tolist() == turned.tolist()
        assert image.filename == str(tmp_path / f"a.{suffix}")


@pytest.mark.parametrize(
    ("wrong", "facts"),
    [
        (PIXELS.transpose(2, 0, 1), ["image 7 is an array of shape (3, 20, 30)", "(H, W, 3)"]),
        (np.zeros((8, 8, 4), np.uint8), ["shape (8, 8, 4)", "in RGB"]),
        (np.zeros((0, 8, 3), np.uint8), ["image 7 has no pixels", "(0, 8, 3)"]),
        (np.zeros((8, 8, 3), np.int64), ["image 7 is an array of int64", "uint8 in 0 ... 255"]),
        (np.zeros((8, 8), bool), ["an array of bool"]),
        (PIXELS.astype(np.float32), ["array of float32 from 0 to 255", "divide it by 255"]),
        (PIXELS / 255 - 0.5, ["pass the image without normalisation"]),
        (np.full((8, 8, 3), np.nan), ["float64 from nan to nan"]),
        (torch.zeros(8, 9, 3), ["image 7 is a tensor of shape (8, 9, 3)", "(3, H, W)"]),
        (torch.zeros(4, 8, 8), ["shape (4, 8, 8)"]),
        (torch.zeros(1, 3, 8, 8), ["a tensor of shape (1, 3, 8, 8)"]),
        (torch.zeros(3, 8, 8, dtype=torch.int32), ["a tensor of int32"]),
        (torch.full((3, 8, 8), -1.0), ["a tensor of float32 from -1 to -1"]),
        (torch.zeros(3, 0, 8), ["has no pixels"]),
        (None, ["image 7 is a NoneType", "a path, a URL"]),
        ([PIXELS], ["image 7 is a list"]),
        (b"not an image", ["image 7 is not an image", "12 bytes"]),
        (b"", ["image 7 is not an image", "0 bytes"]),
        (PNG[:200], ["image 7 cannot be read"]),
        (io.BytesIO(b""), ["image 7, a BytesIO is empty", "file.seek(0)"]),
        (io.StringIO("text"), ["image 7, a StringIO", "mode 'rb'"]),
        ("nowhere.png", ["nowhere.png: there is no such image"]),
        ("s3://bucket/image.png", ["s3://bucket/image.png", "http and https", "Fix: download"]),
        ("http://[", ["http://[ cannot be downloaded: "]),
        (Image.new("F", (2, 2)), ["image 7", "floating-point"]),
    ],
)  # fmt: skip
def test_a_wrong_input_is_an_error_with_what_was_found_and_the_fix(wrong: Any, facts: list[str]):
    with pytest.raises(DataError, match=".*".join(map(re.escape, facts))):
        as_sample(wrong, 7)


def test_a_truncated_pil_image_is_an_error_that_names_its_file(tmp_path: Path):
    file = io.BytesIO()
    Image.fromarray(np.tile(PIXELS, (20, 20, 1))).save(file, "JPEG")
    (tmp_path / "cut.jpg").write_bytes(file.getvalue()[:5000])
    with pytest.raises(DataError, match=r"cut\.jpg cannot be read: .*truncated"):
        as_sample(Image.open(tmp_path / "cut.jpg"), 0)
    with pytest.raises(DataError, match=r"cut\.jpg cannot be read"):
        as_sample(tmp_path / "cut.jpg", 0)


def test_one_image_and_several():
    for one in ("a.png", Path("a.png"), b"a", bytearray(b"a"), io.BytesIO(), Image.fromarray(PIXELS), PIXELS, None):
        images, single = as_images(one)
        assert single and images[0] is one
    for several in (["a.png", PIXELS], ("a.png", PIXELS), iter(["a.png", PIXELS])):
        images, single = as_images(several)
        assert not single and images[0] == "a.png" and images[1] is PIXELS
    images, single = as_images(torch.zeros(2, 3, 4, 5))
    assert not single and [image.shape for image in images] == [(3, 4, 5)] * 2
