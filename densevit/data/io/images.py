"""Reads images of RGB or other channels: one function for files, their content, PIL images, arrays and tensors."""

import os
from collections.abc import Iterable
from dataclasses import replace
from itertools import islice
from typing import IO, Any, cast

import numpy as np
from PIL import Image
from torch import Tensor

from densevit.channels import FULL_RANGES, RGB, Channels, PixelType
from densevit.data.io import rgb_files
from densevit.data.io.channel_files import (
    OTHER_FORMATS,
    StoredPixels,
    channel_paths,
    decode_channels,
    joined,
    pixel_type,
)
from densevit.data.io.file_errors import naming_file
from densevit.data.io.pixel_arrays import pixels_of_array, pixels_of_pil, undecoded_content
from densevit.data.io.rgb_files import Header, apply_orientation
from densevit.errors import DataError, UnreadableFileError

Source = str | os.PathLike[str] | bytes | bytearray | memoryview | IO[bytes] | Image.Image | np.ndarray | Tensor
KINDS = "a path, a URL, bytes, a file object, a PIL image, an array or a tensor"
_TRIED = 20  # files that are read to find the pixel type


def read_image(source: Source, channels: Channels = RGB, upright: bool = True, name: str = "the image") -> np.ndarray:
    """Reads an image as (H, W, C) in the type of its channels; pixels without data are NaN.

    source: a path (the first channel's, if each channel is in its own file); the content of a file; an open file; a PIL
        image; an array (H, W) or (H, W, C), or a tensor (H, W) or (C, H, W), with values as in files. For 8-bit RGB,
        arrays and tensors are uint8, or floats in 0 ... 1.
    upright: whether to rotate the image by its EXIF orientation. name: its origin, for messages.

    Pixels have no data if they are NaN, or have the nodata value of the channels or of the file (GDAL_NODATA). Raises
    UnreadableFileError for files, and DataError for other sources.
    """
    if isinstance(source, str | os.PathLike):
        parts = _stored(source, channels)
        with naming_file(source, "image"):
            return joined(parts, channels, upright)
    if isinstance(source, np.ndarray | Tensor):
        return pixels_of_array(source, channels, name)
    if isinstance(source, Image.Image):
        name = str(getattr(source, "filename", "") or name)
        content = undecoded_content(source)
        if content is None:
            return pixels_of_pil(source, channels, upright, name)
        source = content
    if hasattr(source, "read"):
        source, name = _content(source, name)
    if not isinstance(source, bytes | bytearray | memoryview):
        raise DataError(f"{name} is a {type(source).__name__}. Expected {KINDS}.")
    with naming_file(name, "image", len(source)):
        return joined([_decoded(bytes(source), channels)], channels, upright)


def image_header(path: str | os.PathLike[str], channels: Channels = RGB) -> Header:
    """Returns the size and orientation of an image file. Raises UnreadableFileError if it is incomplete.

    Reads only the first and last bytes of RGB files in JPEG, PNG and WebP, and decodes other files. Damage inside a
    file is detected when it is decoded.
    """
    if not channels.is_rgb or os.fspath(path).lower().endswith((".tif", ".tiff")):
        parts = _stored(path, channels)
        with naming_file(path, "image"):
            return Header(joined(parts, channels, upright=False).shape[:2], parts[0].orientation)
    header, is_whole = rgb_files.header(path)
    if not is_whole:
        read_image(path)
    return header


def channels_of_files(paths: Iterable[str], channels: Channels) -> Channels:
    """Completes channels by the pixel type and the nodata value of the first readable file. Returns `RGB` if the result
    is 8-bit RGB.

    Raises the first error if none of 20 files can be read.
    """
    first = None
    for path in islice(paths, 1 if channels.dtype else _TRIED):
        try:
            parts = _stored(path, channels)
            if channels.dtype:  # read here for its warnings, which otherwise each worker would show
                return channels
            with naming_file(path, "image"):
                file_type = pixel_type(parts[0].values.dtype)
                nodata = next((part.nodata for part in parts if part.nodata is not None), None)
                nodata = nodata if channels.nodata is None else channels.nodata
                dtype = file_type if file_type in FULL_RANGES and nodata is None else "float32"
                stored = file_type if file_type != dtype or nodata is not None else ""
                completed = replace(channels, nodata=nodata, dtype=cast(PixelType, dtype), stored=stored)
                joined(parts, completed)
        except UnreadableFileError as error:  # data.on_error may leave it out
            first = first or error
            continue
        return RGB if completed == replace(RGB, range=(), display=completed.display) else completed
    if first is not None and not channels.dtype:
        raise first
    return channels


def _stored(path: str | os.PathLike[str], channels: Channels) -> list[StoredPixels]:
    """Reads the files of an image, one or one per channel."""
    parts = []
    for file in channel_paths(path, channels):
        with naming_file(file, "image" if len(channels.files) < 2 else "file of a channel"):
            with open(file, "rb") as opened:
                data = opened.read()
            parts.append(_decoded(data, channels))
            shape, expected = (apply_orientation(*part[:2]).shape for part in (parts[-1], parts[0]))
            if channels.files and shape != (*expected[:2], 1):
                raise DataError(
                    f"it has (height, width, channels) {shape}, and {os.path.basename(path)} {expected}; one channel "
                    "of one size is expected in each file."
                )
    return parts


def _decoded(data: bytes, channels: Channels) -> StoredPixels:
    if channels.is_rgb:
        try:
            return StoredPixels(*rgb_files.decode(data))
        except Image.UnidentifiedImageError:  # tifffile, for example, reads more compressions than Pillow
            if not data.startswith(OTHER_FORMATS):
                raise
    return decode_channels(data, channels.names)


def _content(file: Any, name: str) -> tuple[bytes, str]:
    """Returns the content and the name of a file object."""
    name = str(getattr(file, "name", "") or f"{name}, a {type(file).__name__}")
    data = file.read()
    if not isinstance(data, bytes):
        raise DataError(f"{name} was opened as text. Fix: open it with mode 'rb'.")
    if not data:
        raise DataError(f"{name} is empty, or was read before. Fix: file.seek(0).")
    return data, name
