"""Reads the stored values or colours of label maps.

These differ from what a viewer shows: of a palette file the indices are the labels, not the colours, and decoders
stretch the values 0 ... 15 of a grey 4-bit PNG to 0 ... 255.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from PIL import Image

from densevit.data.io.file_errors import naming_file
from densevit.data.io.large_images import open_image
from densevit.errors import DataError

_MODES_OF_VALUES = ("1", "L", "P", "LA", "PA", "La", "I", "I;16", "I;16B", "I;16L")
_MODES_OF_COLORS = ("RGB", "RGBA", "RGBa", "RGBX")
_LOSSY = ("JPEG", "MPO")
_DEPTH_AND_KIND_OF_PNG = slice(24, 26)  # bytes of a PNG: bits a channel, colour type (0 is grey)


def read_label(path: str | os.PathLike[str]) -> np.ndarray:
    """The label values as stored: (H, W) uint8 or uint16 of an indexed or grey file, (H, W, 3) uint8 of an RGB one.

    An alpha channel is dropped. Raises DataError with the file for damaged or lossy files (JPEG), and for values that
    cannot be labels (floating point, negative, above 65535).
    """
    with _opened(path) as image:
        mode = image.mode
        if mode in _MODES_OF_COLORS:
            pixels = np.asarray(image)
            return pixels if mode == "RGB" else np.ascontiguousarray(pixels[..., :3])
        if mode not in _MODES_OF_VALUES:
            raise DataError(
                f"its pixels are of the kind {mode!r}; expected a label file, which is indexed, grey or RGB."
            )
        values = np.asarray(image)
        if values.ndim == 3:  # with alpha
            values = np.ascontiguousarray(values[..., 0])
        if values.dtype not in (np.uint8, np.uint16):
            values = _narrow(values)
        stretched = _stretch(path, image)
        return values if stretched == 1 else values // stretched


def label_size_of(path: str | os.PathLike[str]) -> tuple[int, int]:
    """(h, w), from the file's header."""
    with _opened(path) as image:
        return image.size[::-1]


@contextmanager
def _opened(path: str | os.PathLike[str]) -> Iterator[Image.Image]:
    """Opens a file by Pillow; converts any exception to a DataError that names it."""
    with naming_file(path, "label file"), open_image(path) as image:
        if image.format in _LOSSY:
            raise DataError(
                "it is a JPEG, whose compression changes label values. Save labels as PNG, from their source."
            )
        yield image


def _narrow(values: np.ndarray) -> np.ndarray:
    """Booleans and 32-bit integers to (H, W) uint8 or uint16."""
    if values.dtype == bool:
        return values.astype(np.uint8)
    low, high = int(values.min()), int(values.max())
    if low < 0 or high > 65535:
        raise DataError(f"its values reach from {low} to {high}; expected labels of 0 to 65535.")
    return values.astype(np.uint16)


def _stretch(path: str | os.PathLike[str], image: Image.Image) -> int:
    """The factor by which Pillow scales the values of a grey PNG of 2 or 4 bits to 8 bits."""
    if image.format != "PNG" or image.mode != "L":
        return 1
    with open(path, "rb") as file:
        depth, kind = file.read(_DEPTH_AND_KIND_OF_PNG.stop)[_DEPTH_AND_KIND_OF_PNG]
    return 255 // (2**depth - 1) if kind == 0 and depth < 8 else 1
