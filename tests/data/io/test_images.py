"""Reading images of every kind, against known arrays and Pillow. Damaged files are in `tests/robustness`."""

import numpy as np
import pytest
import torch
from PIL import Image

from densevit.data.io.images import image_header, read_image
from densevit.errors import DataError
from tests.data.io.conftest import H, W, turned


def test_lossless_formats_round_trip(pixels, save):
    for format, options in {"BMP": {}, "PPM": {}, "WEBP": {"lossless": True}}.items():
        path = save(pixels, format, **options)
        assert np.array_equal(read_image(path), pixels) and read_image(path).flags.writeable
        assert image_header(path).upright_size == (H, W)


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
