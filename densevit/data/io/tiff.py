"""Checks of TIFF files that Pillow does not make: pages, bands, and bits per channel."""

from typing import Any

from PIL import ExifTags, Image

from densevit.channels import COLORS
from densevit.errors import DataError

TIFF_MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
OTHER_CHANNELS = "Fix: name its channels in data.channels, as in [red, green, blue, nir]; or save RGB of 8 bits."
ONE_MAP = "Fix: save a file with one page and one channel, the map."  # of labels and depth
_SUBFILE_TYPE = 254  # the tag NewSubfileType
_NO_PAGE = 1 | 4  # its bits for a reduced version and a transparency mask
_ALPHA = ((), (1,), (2,))  # ExtraSamples: none, and alpha, associated or not


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
