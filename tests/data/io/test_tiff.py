"""densevit/data/io/tiff.py: TIFF files that Pillow does not make are refused or read as stored."""

import numpy as np
import pytest
import tifffile
from PIL import Image

from densevit.data.io import tiff
from densevit.data.io.depth_files import depth_size_of, read_depth
from densevit.data.io.images import image_header, read_image
from densevit.data.io.label_files import label_size_of, read_label
from densevit.errors import DataError


@pytest.mark.parametrize("read", [read_image, image_header, read_label, label_size_of, read_depth, depth_size_of])
def test_several_pages_are_an_error(read, tmp_path):
    page = Image.new("L", (5, 4))
    page.save(tmp_path / "pages.tif", save_all=True, append_images=[page, page])
    with pytest.raises(DataError, match=r"pages\.tif: it has 3 pages; expected 1") as raised:
        read(tmp_path / "pages.tif")
    hint = "data.channels='[red, green, blue]', which reads pages as channels"
    assert (hint in str(raised.value)) == (read in (read_image, image_header))


@pytest.mark.parametrize("read", [read_label, label_size_of, read_depth, depth_size_of])
def test_bands_are_refused_with_the_fix_of_a_map(read, tmp_path):
    tifffile.imwrite(tmp_path / "bands.tif", np.zeros((5, 7, 5), np.uint8), photometric="minisblack")
    with pytest.raises(DataError, match=r"bands\.tif: it has [^\n]*Fix: save a file with one page"):
        read(tmp_path / "bands.tif")


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_values_of_a_file_whose_white_is_0_are_read_as_stored(dtype, tmp_path):
    stored = np.array([[0, 1, 200]], dtype)
    tifffile.imwrite(tmp_path / "white.tif", stored, photometric="miniswhite")
    with Image.open(tmp_path / "white.tif") as image:
        assert tiff.is_miniswhite(image) and tiff.channel_bits(image) == 8 * stored.itemsize
        assert tiff.stored_values(tmp_path / "white.tif", image).tolist() == stored.tolist()
