"""Images beyond Pillow's limit against decompression bombs."""

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
    (tmp_path / "big.png").write_bytes(png(40_000, 40_000, depth=1))
    for read in (read_image, image_header, read_label, label_size_of, read_depth, depth_size_of):
        with pytest.raises(DataError, match=r"big\.png: it has 40000 x 40000 .*1,073,741,824 .*1,048,576 on a side"):
            read(tmp_path / "big.png")
