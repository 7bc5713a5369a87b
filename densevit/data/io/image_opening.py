"""Opens image files by Pillow, with OpenCV's limits of 2^30 pixels and 2^20 on a side.

Pillow's limit against decompression bombs, 89 million pixels, is too small: sliding windows predict larger images.
"""

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import IO

from PIL import Image

from densevit.data.io.tiff import OTHER_CHANNELS, check_bands, check_single_page
from densevit.errors import DataError

MAX_PIXELS = 1 << 30
MAX_SIDE = 1 << 20

Image.init()
_FORMATS = [name for name in Image.ID if name != "EPS"]  # Ghostscript would run an EPS file as a program
# A setting of the process: formats such as WebP and TIFF check it when they are decoded, in any thread.
Image.MAX_IMAGE_PIXELS = MAX_PIXELS


def check_size(width: int, height: int) -> None:
    """Raises DataError for a size beyond the limits, such as a damaged header's."""
    if min(width, height) < 1:
        raise DataError(f"it has {width} x {height} pixels; expected 1 or more on a side.")
    if width * height > MAX_PIXELS or max(width, height) > MAX_SIDE:
        raise DataError(
            f"it has {width} x {height} = {width * height:,} pixels; at most {MAX_PIXELS:,} can be read, and "
            f"{MAX_SIDE:,} on a side. Cut the image into tiles, or make it smaller."
        )


@contextmanager
def open_image(source: str | os.PathLike[str] | IO[bytes], fix: str = OTHER_CHANNELS) -> Iterator[Image.Image]:
    """Opens an image as `PIL.Image.open` does, within the limits.

    Raises DataError for an image beyond the limits, before it is decoded, or larger than the memory, and for a TIFF of
    several pages or with further bands; also the errors of `PIL.Image.open`. Animations in other formats open at their
    first frame. fix: the end of messages about pages and bands.
    """
    with ExitStack() as stack:
        is_path = isinstance(source, str | os.PathLike)
        # Without its name, Pillow does not map the file into memory, which mixes up the rows of a rotated TIFF.
        file: IO[bytes] = stack.enter_context(open(source, "rb")) if is_path else source  # type: ignore[arg-type,assignment]
        image = stack.enter_context(Image.open(file, formats=_FORMATS))
        check_size(*image.size)
        check_single_page(image, fix)
        check_bands(image, fix)
        try:
            yield image
        except MemoryError:
            width, height = image.size
            raise DataError(f"it has {width} x {height} pixels, which do not fit into this machine's memory.") from None
