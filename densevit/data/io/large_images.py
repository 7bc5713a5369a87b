"""Opens image files for all readers: images beyond Pillow's limit for decompression bombs, and TIFF files of one image.

Pillow refuses images above 179 million pixels and warns above 89 million; sliding windows can predict such images.
The limit here is OpenCV's: 2^30 pixels, and 2^20 on a side.
"""

import os
import struct
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import IO

from PIL import Image

from densevit.data.io.tiff import OTHER_CHANNELS, check_bands, check_single_page
from densevit.errors import DataError

MAX_PIXELS = 1 << 30
MAX_SIDE = 1 << 20
_PROGRAMS = ("EPS",)  # formats that are programs: Pillow would run Ghostscript


def check_size(width: int, height: int) -> None:
    """Raises DataError for a size beyond the limit above, as a damaged header may have."""
    if min(width, height) < 1:
        raise DataError(f"it has {width} x {height} pixels; expected 1 or more on a side.")
    if width * height > MAX_PIXELS or max(width, height) > MAX_SIDE:
        raise DataError(
            f"it has {width} x {height} = {width * height:,} pixels; at most {MAX_PIXELS:,} can be read, and "
            f"{MAX_SIDE:,} on a side. Cut the image into tiles, or make it smaller."
        )


@contextmanager
def open_image(source: str | os.PathLike[str] | IO[bytes], fix: str = OTHER_CHANNELS) -> Iterator[Image.Image]:
    """Opens an image as `PIL.Image.open`, with the limit above and without Pillow's warning.

    Pillow's own limit is lifted for all threads while an image beyond it is open here. Raises DataError before pixels
    are decoded for an image beyond the limit above or larger than the memory, and for a TIFF of several pages or with
    further bands; also the errors of `PIL.Image.open`. Of an animation in another format, the first frame is opened.
    fix: the end of messages about pages and bands.
    """
    with ExitStack() as stack:
        is_path = isinstance(source, str | os.PathLike)
        file: IO[bytes] = stack.enter_context(open(source, "rb")) if is_path else source  # type: ignore[arg-type,assignment]
        try:
            image = _identified(file)
        except Image.DecompressionBombError:  # some formats, such as WebP, check the limit themselves
            stack.enter_context(_lifted)
            image = _identified(file)
        stack.enter_context(image)
        if image.format == "TIFF":
            check_single_page(image, file, fix)
            check_bands(image, fix)
        width, height = image.size
        check_size(width, height)
        if Image.MAX_IMAGE_PIXELS is not None and width * height > Image.MAX_IMAGE_PIXELS:
            stack.enter_context(_lifted)  # for formats that check it when they decode, such as TIFF
        try:
            yield image
        except MemoryError:
            raise DataError(f"it has {width} x {height} pixels, which do not fit into this machine's memory.") from None


def _identified(file: IO[bytes]) -> Image.Image:
    """Opens an image as `PIL.Image.open`, with plugins in the same order, without size check and without programs.

    Without the file's name, Pillow does not map it into memory, which mixes up the rows of a TIFF that EXIF rotates.
    """
    file.seek(0)
    prefix = file.read(16)
    tried: Sequence[str] = ()
    for load_plugins in (Image.preinit, Image.init):  # the usual formats; all
        load_plugins()
        for format in [format for format in Image.ID if format not in tried]:
            factory, accept = Image.OPEN[format]
            if format in _PROGRAMS:
                continue
            try:
                accepted = accept is None or accept(prefix)
                if not accepted or isinstance(accepted, str):  # a string is the reason why this Pillow lacks the format
                    continue
                file.seek(0)
                return factory(file, "")
            except (SyntaxError, IndexError, KeyError, TypeError, struct.error):  # of another format, or too short
                continue
        tried = tuple(Image.ID)
    raise Image.UnidentifiedImageError(f"it begins with {prefix!r}" if prefix else "it is empty")


class _Lifted:
    """Context in which Pillow has no limit; the last thread to leave it restores the limit."""

    def __init__(self) -> None:
        self._lock, self._inside = threading.Lock(), 0
        self._limit: int | None = None

    def __enter__(self) -> None:
        with self._lock:
            if self._inside == 0:
                self._limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
            self._inside += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside == 0:
                Image.MAX_IMAGE_PIXELS = self._limit


_lifted = _Lifted()
