"""Decodes image files to (H, W, 3) uint8, RGB.

Pillow identifies the format; simplejpeg (libjpeg-turbo) and OpenCV decode common formats, Pillow the rest. Where
several can decode a format, they agree to the last bit. Modes are converted as by Pillow's `convert("RGB")`: grey is
repeated, a palette looked up, alpha dropped, CMYK converted without a colour profile. 16-bit values are divided by 257
and rounded. Animations are read at their first frame.
"""

import io
import os
import re
from typing import NamedTuple

import cv2
import numpy as np
import simplejpeg
from PIL import ExifTags, Image

from densevit.channels import COLORS
from densevit.data.io.file_errors import naming_file
from densevit.data.io.image_opening import open_image
from densevit.data.io.tiff import OTHER_CHANNELS, channel_bits, is_miniswhite
from densevit.errors import DataError, warn_once

_JPEG = ("JPEG", "MPO")
_SPARE_BYTES = 64  # most bytes that encoders leave before a JPEG marker; more come from a damaged scan
_TAIL = 64  # bytes at the end of a file that hold the end marker
_END_OF_PNG = b"IEND\xae\x42\x60\x82"
_DEPTH_OF_PNG = 24  # the byte of a PNG that holds its bits per channel


class Header(NamedTuple):
    """Header of an image file. size: (h, w) as stored. orientation: EXIF's, 1 ... 8."""

    size: tuple[int, int]
    orientation: int = 1

    @property
    def upright_size(self) -> tuple[int, int]:
        """(h, w) after the EXIF rotation."""
        return self.size[::-1] if self.orientation >= 5 else self.size


def decode(data: bytes) -> tuple[np.ndarray, int]:
    """Decodes an image file's content to (H, W, 3) uint8, RGB, and its EXIF orientation, which is not applied."""
    with open_image(io.BytesIO(data)) as image:
        orientation = _header(image).orientation
        check_bits(image)
        if _is_deep(image, data):
            pixels = _decode_deep(image, data)
        else:
            fast = _decode_fast(image, data)
            pixels = to_rgb(image) if fast is None else fast
        if image.format == "PNG" and _END_OF_PNG not in data:  # Pillow does not check it
            raise DataError("it is a PNG without an end. Is the file cut short?")
    return pixels, orientation


def header(path: str | os.PathLike[str]) -> tuple[Header, bool]:
    """Returns an image's header, and whether the file ends with its format's end marker; False for formats that only
    decoding can check."""
    with naming_file(path, "image"), open(path, "rb") as file, open_image(file) as image:
        image_header = _header(image)
        length = file.seek(0, os.SEEK_END)
        file.seek(max(0, length - _TAIL))
        tail = file.read()
        file.seek(0)
        return image_header, _is_whole(image.format, file.read(12), tail, length)


def _header(image: Image.Image) -> Header:
    width, height = image.size
    if image.format == "PNG":
        image.getexif()  # reads up to the end of the file, where EXIF may be too
    return Header((height, width), orientation_of(image))


def upright_size_of(image: Image.Image) -> tuple[int, int]:
    """Returns (h, w) of an opened label or depth file after the EXIF rotation."""
    return Header(image.size[::-1], orientation_of(image)).upright_size


def orientation_of(image: Image.Image) -> int:
    """Returns the EXIF orientation, 1 ... 8, that Pillow does not apply itself. In a PNG, EXIF must precede the
    pixels."""
    if image.format == "TIFF":  # Pillow and OpenCV rotate these
        return 1
    orientation = Image.Image.getexif(image).get(ExifTags.Base.Orientation, 1)  # a PNG's own method decodes the pixels
    return orientation if orientation in range(1, 9) else 1


def _is_whole(format: str | None, head: bytes, tail: bytes, length: int) -> bool:
    """Whether a file ends with its format's end marker. False for formats that only decoding can check."""
    if format in _JPEG:
        return tail.rstrip(b"\0").endswith(b"\xff\xd9")
    if format == "PNG":
        return tail.endswith(_END_OF_PNG)
    if format == "WEBP":
        return length >= int.from_bytes(head[4:8], "little") + 8
    return False


def _decode_fast(image: Image.Image, data: bytes) -> np.ndarray | None:
    """Decodes a JPEG or PNG in RGB or grey without Pillow; None for other images and for incomplete files."""
    ordinary = (image.format in _JPEG and image.mode in ("RGB", "L")) or (
        image.format == "PNG" and image.mode in ("RGB", "L", "RGBA")
    )
    if not ordinary or not _is_whole(image.format, data[:12], data[-_TAIL:], len(data)):
        return None
    if image.format in _JPEG:
        try:
            return simplejpeg.decode_jpeg(data, strict=True)  # the same pixels as OpenCV, but it reports damage
        except ValueError as error:
            spare = re.search(r"(\d+) extraneous bytes before marker", str(error))
            if spare is None or int(spare[1]) > _SPARE_BYTES:
                raise
    return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION)


def to_rgb(image: Image.Image) -> np.ndarray:
    """Converts a Pillow image in any mode to (H, W, 3) uint8, without EXIF rotation."""
    if image.mode == "F":
        raise DataError(f"its pixels are floating-point numbers; expected 8 or 16 bits per channel. {OTHER_CHANNELS}")
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")  # the same colours, without a warning by Pillow
    if not image.mode.startswith("I"):
        return np.array(image.convert("RGB"))
    grey = np.asarray(image)
    if is_miniswhite(image):  # Pillow inverts 8 bits only
        grey = 65535 - grey
    if grey.min() < 0 or grey.max() > 65535:
        raise DataError(
            f"its values range from {grey.min()} to {grey.max()}; expected 8 or 16 bits per channel. {OTHER_CHANNELS}"
        )
    return np.repeat(_to_8_bits(grey)[..., None], 3, axis=2)


def _is_deep(image: Image.Image, data: bytes) -> bool:
    """Whether a PNG or TIFF has 16 bits per channel, which Pillow would cut to 8."""
    if image.format == "PNG":
        return data[_DEPTH_OF_PNG] == 16
    return channel_bits(image) == 16


def check_bits(image: Image.Image) -> None:
    """Raises DataError for a TIFF of 9 to 15 bits per channel, whose values Pillow does not scale to 16 bits."""
    bits = channel_bits(image)
    if 8 < bits < 16:
        raise DataError(f"it has {bits} bits per channel; expected 8 or 16. Save it with 8, or scaled to 16.")


def _decode_deep(image: Image.Image, data: bytes) -> np.ndarray:
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if pixels is None or pixels.dtype != np.uint16:
        return to_rgb(image)
    pixels = _to_8_bits(pixels)
    if is_miniswhite(image):
        pixels = 255 - pixels
    if pixels.ndim == 2:
        return np.repeat(pixels[..., None], 3, axis=2)
    return np.ascontiguousarray(pixels[..., 2::-1])  # from BGR or BGRA


def _to_8_bits(pixels: np.ndarray) -> np.ndarray:
    """Converts 0 ... 65535 to 0 ... 255: value / 257, rounded. Warns of it."""
    names = ("grey",) if pixels.ndim == 2 else (*COLORS, "alpha")[: pixels.shape[2]]
    warn_once(
        "Images of 16 bits per channel are read as 8 bits, value / 257: 12 bits, 0 ... 4095, become 17 levels. Fix: "
        f"data.channels='[{', '.join(names)}]' data.range=percentile keeps all values."
    )
    return ((pixels.astype(np.uint32) + 128) // 257).astype(np.uint8)


def apply_orientation(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Applies an EXIF orientation to (H, W, ...)."""
    if orientation == 1:
        return pixels
    if orientation >= 5:
        pixels = pixels.swapaxes(0, 1)
    down = -1 if orientation in (3, 4, 7, 8) else 1
    right = -1 if orientation in (2, 3, 6, 7) else 1
    return pixels[::down, ::right].copy()  # torch needs positive strides, also of a single row or column
