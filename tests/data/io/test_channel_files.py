"""Reading images of other channels than RGB of 8 bits, against the arrays that tifffile, OpenCV and OpenEXR wrote."""

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from densevit.channels import RGB, Channels
from densevit.data.io.channel_files import as_rgb
from densevit.data.io.depth_files import read_depth
from densevit.data.io.images import channels_of_files, image_header, read_image
from densevit.data.io.label_files import read_label
from densevit.errors import DataError
from tests.data.io.conftest import ORIENTATION

H, W = 37, 53


def _image(dtype: str, count: int) -> np.ndarray:
    values = np.random.default_rng(count).uniform(0, 250, (H, W, count))
    return (values * (200 if dtype == "uint16" else 1)).astype(dtype)


def _named(dtype: str, count: int) -> Channels:
    return Channels(tuple(f"band{i}" for i in range(count)), "" if dtype == "float64" else dtype, ())  # type: ignore[arg-type]


def _interleaved(path: Path, pixels: np.ndarray) -> None:
    import tifffile

    tifffile.imwrite(path, pixels, photometric="minisblack", planarconfig="contig", compression="lzw")


def _planar(path: Path, pixels: np.ndarray) -> None:
    import tifffile

    planes = np.ascontiguousarray(pixels.transpose(2, 0, 1))
    tifffile.imwrite(path, planes, photometric="minisblack", planarconfig="separate", tile=(16, 16))


def _pages(path: Path, pixels: np.ndarray) -> None:
    import tifffile

    with tifffile.TiffWriter(path) as file:
        for plane in pixels.transpose(2, 0, 1):
            file.write(np.ascontiguousarray(plane), photometric="minisblack", contiguous=False)


def _npy_first(path: Path, pixels: np.ndarray) -> None:
    np.save(path, pixels.transpose(2, 0, 1))


def _png(path: Path, pixels: np.ndarray) -> None:
    order = [2, 1, 0, 3][: pixels.shape[2]] if pixels.shape[2] > 1 else [0]
    cv2.imwrite(str(path), pixels[..., order])


WRITERS: dict[str, tuple[str, Callable[[Path, np.ndarray], None]]] = {
    "interleaved": (".tif", _interleaved),
    "planar": (".tif", _planar),
    "pages": (".tif", _pages),
    "channels first": (".npy", _npy_first),
    "png": (".png", _png),
}


@pytest.mark.parametrize(
    ("kind", "dtype", "count"),
    [
        *((kind, dtype, 5) for kind in ("interleaved", "planar", "pages") for dtype in ("uint8", "float32")),
        *(("interleaved", dtype, 2) for dtype in ("int16", "float64")),
        *(("png", "uint16", count) for count in (1, 3, 4)),
        ("channels first", "uint16", 4),
    ],
)
def test_pixels_are_those_of_the_file(kind, dtype, count, tmp_path):
    suffix, write = WRITERS[kind]
    pixels, file = _image(dtype, count), tmp_path / f"a{suffix}"
    write(file, pixels)
    channels = channels_of_files([str(file)], Channels(_named("", count).names, "", ()))
    expected = pixels.astype(dtype if dtype in ("uint8", "uint16") else "float32")
    assert (channels.dtype, image_header(file, channels).size) == (str(expected.dtype), (H, W))
    for given in (file, file.read_bytes()):
        found = read_image(given, channels)
        assert found.dtype == expected.dtype and np.array_equal(found, expected)


def test_each_channel_may_have_a_file_of_its_own(tmp_path):
    pixels = _image("uint16", 3)
    for i, end in enumerate(("_red", "_nir", "_b8")):
        cv2.imwrite(str(tmp_path / f"field{end}.png"), pixels[..., i])
    channels = Channels(("red", "nir", "b8"), "uint16", (), files=("_red", "_nir", "_b8"))
    assert np.array_equal(read_image(tmp_path / "field_red.png", channels), pixels)
    cv2.imwrite(str(tmp_path / "field_nir.png"), pixels[:30, :, 1])
    with pytest.raises(DataError, match=r"field_nir\.png: .*\(30, 53, 1\), and field_red\.png \(37, 53, 1\)"):
        read_image(tmp_path / "field_red.png", channels)
    (tmp_path / "field_nir.png").unlink()
    with pytest.raises(DataError, match=r"field_nir\.png: there is no such file of a channel"):
        read_image(tmp_path / "field_red.png", channels)


def test_a_tiff_is_rotated_by_its_orientation(tmp_path):
    import tifffile

    pixels, tag = _image("uint16", 4), (ORIENTATION, "H", 1, 6, False)
    tifffile.imwrite(tmp_path / "a.tif", pixels, photometric="minisblack", planarconfig="contig", extratags=[tag])
    assert np.array_equal(read_image(tmp_path / "a.tif", _named("uint16", 4)), np.rot90(pixels, 3))
    assert np.array_equal(read_image(tmp_path / "a.tif", _named("uint16", 4), upright=False), pixels)


def test_integers_whose_file_names_a_value_without_data_need_the_key(tmp_path):
    """Floats are read: `tests/data/image_sources.py`."""
    import tifffile

    form = {"photometric": "minisblack", "planarconfig": "contig", "metadata": None}
    tifffile.imwrite(tmp_path / "b.tif", np.zeros((H, W, 2), np.uint16), **form, extratags=[(42113, "s", 0, "0", True)])
    with pytest.raises(DataError, match=r"b\.tif: it names the value 0 .* uint16 cannot have\. Fix: data\.nodata=0\."):
        read_image(tmp_path / "b.tif", _named("uint16", 2))


def test_a_tiff_with_white_as_0_is_the_image_with_black_as_0(tmp_path):
    """As an image; of label and depth maps, values are those that are stored."""
    import tifffile

    stored = np.random.default_rng(0).integers(0, 2**16, (H, W)).astype(np.uint16)
    white, black = tmp_path / "white.tif", tmp_path / "black.tif"
    tifffile.imwrite(white, stored, photometric="miniswhite", metadata=None)
    tifffile.imwrite(black, ~stored, photometric="minisblack", metadata=None)
    for channels in (RGB, Channels(("grey",), "uint16", ())):
        assert np.array_equal(read_image(white, channels), read_image(black, channels))
    assert all(np.array_equal(read(white), stored) for read in (read_label, read_depth))


@pytest.mark.parametrize("count", (3, 48))
def test_a_plain_array_is_no_stack_of_its_rows(count, tmp_path):
    """Of (H, W, C) without names of the axes, tifffile writes H pages."""
    import tifffile

    pixels = _image("uint16", count)
    for name, array in (("last", pixels), ("first", pixels.transpose(2, 0, 1))):
        tifffile.imwrite(tmp_path / f"{name}.tif", np.ascontiguousarray(array))
        assert np.array_equal(read_image(tmp_path / f"{name}.tif", _named("uint16", count)), pixels)


@pytest.mark.parametrize(
    ("channels", "message"),
    (
        (RGB, r"a\.tif: it has 5 channels; expected 3: .* data\.channels"),
        (_named("uint16", 4), r"a\.tif: it has 5 channels; expected 4: band0, band1, band2, band3\."),
        (_named("uint8", 5), r"a\.tif: its pixels are uint16; those of the other images are uint8"),
        (Channels(("a", "b", "c"), "uint16", (), files=("_a", "_b", "_c")), r"a\.tif: .*channel 'a' ends with '_a'"),
    ),
)
def test_other_channels_are_refused_by_name(channels, message, tmp_path):
    _interleaved(tmp_path / "a.tif", _image("uint16", 5))
    with pytest.raises(DataError, match=message):
        read_image(tmp_path / "a.tif", channels)


@pytest.mark.parametrize(
    ("given", "message"),
    (
        ({"names": ()}, "no name is given"),
        ({"names": ("a", "b", "a")}, "'a' is given twice"),
        ({"names": ("a", "b"), "range": ((0, 1),)}, "1 ranges for 2 channels"),
        ({"names": ("a",), "range": ((5, 1),)}, "the range of 'a' is 5 to 1"),
        ({"display": ("red", "blue")}, "cannot be drawn; one or three of red, green, blue"),
        ({"display": ("nir",)}, "cannot be drawn"),
    ),
)
def test_impossible_channels_are_refused(given, message):
    with pytest.raises(DataError, match=message):
        Channels(**{"dtype": "uint16", "range": (), **given})


def test_drawn_channels_are_stretched_by_percentiles():
    pixels = _image("float32", 4)
    pixels[0, 0] = 1e6
    pixels[1, 1, 2] = np.nan
    channels = Channels(("blue", "green", "red", "nir"), "float32", (), display=("nir", "red", "green"))
    found = as_rgb(pixels, channels)
    for i, source in enumerate((3, 2, 1)):
        plane = pixels[..., source]
        low, high = np.nanpercentile(plane, (1, 99))
        expected = np.nan_to_num((plane - low) / (high - low), nan=0).clip(0, 1) * 255
        assert np.abs(found[..., i] - expected).max() <= 0.51
    grey = as_rgb(pixels, Channels(("a", "b", "c", "d"), "float32", ()))
    assert grey.shape == (H, W, 3) and (grey[..., 0] == grey[..., 1]).all()
