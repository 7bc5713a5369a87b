"""Reads the stored values or colours of label maps.

They differ from the decoded image: in a palette file the indices are the labels, not the colours, and decoders scale
the values 0 ... 15 of a grey 4-bit PNG to 0 ... 255.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from PIL import Image

from densevit.data.io.file_errors import naming_file
from densevit.data.io.image_opening import open_image
from densevit.data.io.rgb_files import apply_orientation, orientation_of, upright_size_of
from densevit.data.io.tiff import ONE_MAP, stored_bits, stored_values
from densevit.errors import DataError

_MODES_OF_VALUES = ("1", "L", "P", "LA", "PA", "La", "I", "I;16", "I;16B", "I;16L")
_MODES_OF_COLORS = ("RGB", "RGBA", "RGBa", "RGBX")
_LOSSY, JPEG = ("JPEG", "MPO"), (".jpg", ".jpeg")
LOSSY = "its compression changes the values. Fix: save them again from their source as PNG."


def read_label(path: str | os.PathLike[str], palette: bool = False, grey: bool = False) -> np.ndarray:
    """Reads label values as stored: (H, W) uint8 or uint16 of an indexed or grey file, (H, W, 3) uint8 of an RGB file.

    palette: whether to return the palette's colours (H, W, 3) of an indexed file. grey: whether to return the displayed
    grey levels, 0 to 255, of a grey file of 1, 2 or 4 bits.
    Drops an alpha channel, and rotates by the EXIF orientation, as for images. Raises DataError with the file for
    damaged or lossy files (JPEG), for 16-bit colours, and for values that cannot be labels (floating point, negative,
    above 65535).
    """
    with _opened(path) as image:
        orientation = orientation_of(image)
        if palette and image.mode in ("P", "PA"):
            return apply_orientation(np.asarray(image.convert("RGB")), orientation)
        if grey and image.mode in ("1", "L"):
            return apply_orientation(np.asarray(image.convert("L")), orientation)
        return apply_orientation(_stored(path, image), orientation)


def _stored(path: str | os.PathLike[str], image: Image.Image) -> np.ndarray:
    """Returns the values or colours as stored, not rotated."""
    mode, bits = image.mode, stored_bits(path, image)
    if mode not in _MODES_OF_VALUES + _MODES_OF_COLORS:
        raise DataError(f"its pixels have the mode {mode!r}; expected a label file, which is indexed, grey or RGB.")
    if bits == 16 and mode in (*_MODES_OF_COLORS, "LA"):  # Pillow would cut them to 8 bits
        raise DataError("it has several channels of 16 bits per channel; expected 8, or one channel of 16 bits.")
    values = stored_values(path, image)
    if mode in _MODES_OF_COLORS:
        return values if mode == "RGB" else np.ascontiguousarray(values[..., :3])
    if values.ndim == 3:  # with alpha
        values = np.ascontiguousarray(values[..., 0])
    return values if values.dtype in (np.uint8, np.uint16) else _narrow(values)


def label_size_of(path: str | os.PathLike[str]) -> tuple[int, int]:
    """Returns (h, w) of the result of `read_label`, from the file's header."""
    with _opened(path) as image:
        return upright_size_of(image)


@contextmanager
def _opened(path: str | os.PathLike[str]) -> Iterator[Image.Image]:
    """Opens a label file by Pillow; converts any exception to a DataError that names the file."""
    with naming_file(path, "label file"), open_image(path, ONE_MAP) as image:
        if image.format in _LOSSY:
            raise DataError(f"it is a JPEG: {LOSSY}")
        yield image


def _narrow(values: np.ndarray) -> np.ndarray:
    """Converts booleans and 32-bit integers to (H, W) uint8 or uint16."""
    if values.dtype == bool:
        return values.astype(np.uint8)
    low, high = int(values.min()), int(values.max())
    if low < 0 or high > 65535:
        raise DataError(f"its values range from {low} to {high}; expected labels of 0 to 65535.")
    return values.astype(np.uint16)
