"""Images beyond Pillow's limit against decompression bombs."""

from typing import Any

import pytest
from PIL import Image

from densevit.data.io.depth_files import depth_size_of, read_depth
from densevit.data.io.images import image_header, read_image
from densevit.data.io.label_files import label_size_of, read_label
from densevit.errors import DataError
from tests.data.io.conftest import png

H, W = 37, 53


@pytest.mark.filterwarnings("error")
def test_images_beyond_pillows_limit_are_opened(tmp_path):
    """Of 225 million pixels; Pillow refuses more than 179 million."""
    Image.new("1", (15_000, 15_000)).save(tmp_path / "a.png")
    assert image_header(tmp_path / "a.png").size == label_size_of(tmp_path / "a.png") == (15_000, 15_000)


@pytest.mark.filterwarnings("ignore:Image size")
def test_unreadable_file_error_names_size_and_limit(tmp_path):
    """The limits of OpenCV, CV_IO_MAX_IMAGE_PIXELS and _WIDTH."""
    for size in ((40_000, 40_000), (2_000_000, 10)):
        (tmp_path / "big.png").write_bytes(png(*size, depth=1))
        facts = rf"big\.png: it has {size[0]} x {size[1]} .*1,073,741,824 .*1,048,576 on a side"
        for read in (read_image, image_header, read_label, label_size_of, read_depth, depth_size_of):
            with pytest.raises(DataError, match=facts) as caught:
                read(tmp_path / "big.png")
            assert "damaged" not in str(caught.value)


def test_insufficient_memory_raises(tmp_path, monkeypatch):
    def decode(*_: Any) -> None:
        raise MemoryError

    Image.new("RGB", (W, H)).save(tmp_path / "a.png")
    monkeypatch.setattr("densevit.data.io.rgb_files._decode_fast", decode)
    with pytest.raises(DataError, match=r"a\.png: it has 53 x 37 pixels, which do not fit into") as caught:
        read_image(tmp_path / "a.png")
    assert "damaged" not in str(caught.value)
