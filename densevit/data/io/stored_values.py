"""Values of label and depth files as stored: Pillow scales 2 and 4 bits to 0 ... 255, and inverts where white is 0."""

import os

import numpy as np
from PIL import Image

from densevit.data.io.tiff import channel_bits, is_miniswhite

_DEPTH_OF_PNG = 24  # the byte of a PNG that holds its bits per channel


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
