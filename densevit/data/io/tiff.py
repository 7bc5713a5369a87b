"""Checks of TIFF files that Pillow does not make: pages, bands, and bits per channel. Values of label and depth files
as stored: Pillow scales 2 and 4 bits to 0 ... 255, and inverts where white is 0."""

import os
from typing import Any

import numpy as np
from PIL import ExifTags, Image

from densevit.channels import COLORS
from densevit.errors import DataError

TIFF_MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
OTHER_CHANNELS = "Fix: name its channels in data.channels, as in [red, green, blue, nir]; or save RGB of 8 bits."
ONE_MAP = "Fix: save a file with one page and one channel, the map."  # of labels and depth
_SUBFILE_TYPE = 254  # the tag NewSubfileType
_NO_PAGE = 1 | 4  # its bits for a reduced version and a transparency mask
_ALPHA = ((), (1,), (2,))  # ExtraSamples: none, and alpha, associated or not
_DEPTH_OF_PNG = 24  # the byte of a PNG that holds its bits per channel


def check_single_page(image: Image.Image, fix: str) -> None:
    """Raises DataError for a TIFF with several pages. Previews and transparency masks are not pages.

    image: just opened. fix: the end of the message.
    """
    if image.format != "TIFF" or not getattr(image, "is_animated", False):
        return
    pages = 0
    for number in range(image.n_frames):  # type: ignore[attr-defined]
        image.seek(number)
        pages += not _tags(image).get(_SUBFILE_TYPE, 0) & _NO_PAGE
    image.seek(0)
    if pages == 3 and fix == OTHER_CHANNELS:
        fix = f"Fix: if they are its bands, set data.channels='[{', '.join(COLORS)}]', which reads pages as channels."
    if pages > 1:
        raise DataError(f"it has {pages} pages; expected 1. {fix}")


def check_bands(image: Image.Image, fix: str) -> None:
    """Raises DataError for a TIFF with more bands than grey or RGB and alpha: Pillow would drop them.

    fix: the end of the message.
    """
    tags = _tags(image)
    if tuple(tags.get(ExifTags.Base.ExtraSamples, ())) not in _ALPHA:
        bands = tags.get(ExifTags.Base.SamplesPerPixel, 1)
        raise DataError(f"it has {bands} bands per pixel; expected 1 (grey) or 3 (RGB), and at most alpha. {fix}")


def channel_bits(image: Image.Image) -> int:
    """Returns the bits per channel of a TIFF, the largest if channels differ; 8 for images of any other format."""
    return int(max(_tags(image).get(ExifTags.Base.BitsPerSample, (1,)))) if image.format == "TIFF" else 8


def is_miniswhite(image: Image.Image) -> bool:
    """Whether a TIFF stores white as 0."""
    return _tags(image).get(ExifTags.Base.PhotometricInterpretation) == 0


def _tags(image: Image.Image) -> Any:
    return getattr(image, "tag_v2", {}) if image.format == "TIFF" else {}


def stored_values(path: str | os.PathLike[str], image: Image.Image) -> np.ndarray:
    """Returns the values of an opened file, (H, W) or (H, W, C). path: the file."""
    bits, values = stored_bits(path, image), np.asarray(image)
    if is_miniswhite(image) and image.mode in ("1", "L"):
        values = ~values
    return values // (255 // (2**bits - 1)) if image.mode == "L" and bits < 8 else values


def stored_bits(path: str | os.PathLike[str], image: Image.Image) -> int:
    """Returns the bits per channel of a PNG or TIFF; 8 for images of any other format."""
    if image.format != "PNG":
        return channel_bits(image)
    with open(path, "rb") as file:
        return file.read(_DEPTH_OF_PNG + 1)[_DEPTH_OF_PNG]
