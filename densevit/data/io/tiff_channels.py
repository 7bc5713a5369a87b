"""Decodes TIFF files with any bands and types by tifffile."""

import io
from contextlib import suppress
from typing import Any

import numpy as np
from PIL import ExifTags

from densevit.data.io.image_opening import check_size
from densevit.errors import DataError

_GDAL_NODATA = 42113  # the tag


def decode_tiff(data: bytes, count: int) -> tuple[np.ndarray, int, float | None]:
    """Decodes the bands of a TIFF's first image and of further pages of its shape. All axes besides height and width
    become channels.

    count: the expected number of channels, which tells the layout of an array that names no axes. Returns the values
    (H, W, c), the orientation, and the file's value for pixels without data.
    """
    with opened_tiff(io.BytesIO(data)) as file:
        series = file.series[0]
        axes, page = axes_of(series, count), series.keyframe
        if not {"Y", "X"} <= set(axes):
            raise DataError(f"its axes are {axes}; a height and a width are expected.")
        height, width = axes.index("Y"), axes.index("X")
        check_size(series.shape[width], series.shape[height])
        like = (series.axes, series.shape, series.dtype)
        pages = [images for images in file.series if (images.axes, images.shape, images.dtype) == like]
        planes = [np.moveaxis(images.asarray(), (height, width), (0, 1)) for images in pages]
    values = np.concatenate([plane.reshape(*plane.shape[:2], -1) for plane in planes], axis=2)
    return displayed_values(values, page), int(page.tags.valueof(ExifTags.Base.Orientation, 1)), nodata_of(page)


def opened_tiff(source: Any) -> Any:
    """Opens a TIFF by tifffile. Raises DataError if it is not installed."""
    try:
        import tifffile  # late: most images are no TIFF
    except ImportError:
        raise DataError("this TIFF needs the package tifffile. Fix: pip install tifffile imagecodecs.") from None
    return tifffile.TiffFile(source)


def axes_of(series: Any, count: int = 0) -> str:
    """Returns the axes of a TIFF's images. tifffile reads an array (H, W, C) without axis names as a stack of H pages;
    here it is one image if only its last side is the number of channels.

    count: the number of channels; 0: the smaller of the first and the last side.
    """
    first, *_, last = series.shape
    count = count or min(first, last)
    return "YXS" if series.axes == "QYX" and first != count == last else str(series.axes)


def displayed_values(values: np.ndarray, page: Any) -> np.ndarray:
    """Converts the values (H, W, c) of a page to displayed values: looks up a palette, scales fewer than 8 bits to 8,
    and makes 0 black."""
    photometric, bits = page.photometric.name, page.bitspersample
    if photometric == "PALETTE" and page.colormap is not None:
        return (page.colormap.T >> 8).astype(np.uint8)[values].reshape(*values.shape[:2], -1)
    if bits < 8:
        values = values.astype(np.uint8) * np.uint8(255 // (2**bits - 1))
    if photometric == "MINISWHITE" and values.dtype.kind == "u":
        values = values ^ values.dtype.type(2 ** max(bits, 8) - 1)
    return values


def nodata_of(page: Any) -> float | None:
    """Returns GDAL's value for pixels without data in a page's tags; None for NaN and if there is none."""
    with suppress(ValueError, AttributeError, TypeError):
        value = float(page.tags.valueof(_GDAL_NODATA).strip("\0 "))
        return None if np.isnan(value) else value
    return None
