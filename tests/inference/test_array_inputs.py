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
from densevit.inference.array_inputs import as_images, as_sample
from tests.inference.test_downloads import PIXELS, PNG, serving
from tests.written_files import encoded


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
        inputs = [
            path,
            str(path),
            f"{address}/image.png",
            PNG,
            bytearray(PNG),
            memoryview(PNG),
            io.BytesIO(PNG),
            file,
            Image.open(path),
            Image.fromarray(PIXELS),
            PIXELS,
            PIXELS[:, ::-1][:, ::-1],
            tensor,
        ]
        read_only = PIXELS.copy()
        read_only.flags.writeable = False
        inputs += [read_only, floats, floats.astype(np.float32), torch.from_numpy(floats).permute(2, 0, 1)]
        for given in inputs:
            assert np.array_equal(pixels_of(given), PIXELS), given
            assert as_images(given) == ([given], True)
    for several in ([path, PNG], iter([path]), PIXELS[None], tensor[None]):
        assert as_images(several) == (several, False)


def test_grey_images_are_repeated_over_the_channels_and_floats_are_rounded(tmp_path: Path):
    grey = PIXELS[..., 0]
    (tmp_path / "grey.png").write_bytes(encoded(grey))
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


@pytest.mark.parametrize(
    ("wrong", "facts"),
    [
        (PIXELS.transpose(2, 0, 1), ["image 7 is an array of shape (3, 20, 30)", "(H, W, 3)"]),
        (np.zeros((0, 8, 3), np.uint8), ["image 7 has no pixels", "(0, 8, 3)"]),
        (np.zeros((8, 8, 3), np.int64), ["image 7 is an array of int64", "uint8 in 0 ... 255"]),
        (PIXELS.astype(np.float32), ["array of float32 from 0 to 255", "divide it by 255"]),
        (PIXELS / 255 - 0.5, ["pass the image without normalisation"]),
        (torch.zeros(8, 9, 3), ["image 7 is a tensor of shape (8, 9, 3)", "(3, H, W)"]),
        (None, ["image 7 is a NoneType", "a path, a URL"]),
        (b"not an image", ["image 7 is not an image", "12 bytes"]),
        (PNG[:200], ["image 7 cannot be read"]),
        (io.BytesIO(b""), ["image 7, a BytesIO is empty", "file.seek(0)"]),
        ("nowhere.png", ["nowhere.png: there is no such image"]),
        ("s3://bucket/image.png", ["s3://bucket/image.png", "http and https", "Fix: download"]),
        (Image.new("F", (2, 2)), ["image 7", "floating-point"]),
    ],
)  # fmt: skip
def test_a_wrong_input_is_an_error_with_what_was_found_and_the_fix(wrong: Any, facts: list[str]):
    with pytest.raises(DataError, match=".*".join(map(re.escape, facts))):
        as_sample(wrong, 7)
