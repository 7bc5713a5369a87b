"""Reads images of other channels than RGB of 8 bits: TIFF with bands or pages, PNG of 16 bits, EXR, NPY, or a file for
each channel.

tifffile decodes TIFF, OpenEXR EXR, OpenCV PNG of 16 bits and Pillow the rest. Values are those of the file; types other
than uint8 and uint16 become float32.
"""

import io
import os
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import partial
from itertools import islice
from typing import cast

import cv2
import numpy as np
from PIL import ExifTags

from densevit.channels import FULL_RANGES, RGB, Channels, PixelType
from densevit.data.io.file_errors import naming_file
from densevit.data.io.images import Header, apply_orientation, check_image, decode_image, orientation_of, read_image
from densevit.data.io.large_images import check_size, open_image
from densevit.errors import DataError, UnreadableFileError

SUFFIXES = (".npy", ".exr")
"""Suffixes of images with other channels, besides those of RGB images."""
_TIFF, _NPY, _EXR = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"), b"\x93NUMPY", b"v/1\x01"
_TRIED = 20  # files, for their type
_EXR_NAMES = {"R": "red", "G": "green", "B": "blue"}


def read_pixels(path: str | os.PathLike[str], channels: Channels, upright: bool = True) -> np.ndarray:
    """Reads an image as (H, W, C) in the type of its channels; RGB of 8 bits as `read_image` does.

    upright: rotates it by its EXIF orientation. Raises UnreadableFileError for a file with other channels.
    """
    if channels.is_rgb:
        return read_image(path, upright)
    parts = []
    for file in channel_paths(path, channels):
        with naming_file(file, "image" if len(channels.files) < 2 else "file of a channel"):
            with open(file, "rb") as opened:
                data = opened.read()
            parts.append(_decoded(data, channels, upright))
            if channels.files and parts[-1].shape != (*parts[0].shape[:2], 1):
                raise DataError(
                    f"it has (height, width, channels) {parts[-1].shape}, and {os.path.basename(path)} {parts[0].shape}"
                    "; one channel of one size is expected in each file."
                )
    with naming_file(path, "image"):
        return with_channels(parts, channels)


def decode_pixels(data: bytes, name: str | os.PathLike[str], channels: Channels, upright: bool = True) -> np.ndarray:
    """Decodes the content of a file with all channels, as `read_pixels`. name: its origin, for messages."""
    if channels.is_rgb:
        return decode_image(data, name, upright)
    with naming_file(name, "image", len(data)):
        return with_channels([_decoded(data, channels, upright)], channels)


def with_channels(parts: Sequence[np.ndarray], channels: Channels) -> np.ndarray:
    """Joins arrays (H, W, c) to the channels' C, in their type, and marks pixels without data.

    Raises DataError for another number of channels or another type.
    """
    pixels = parts[0] if len(parts) == 1 else np.concatenate(parts, axis=2)
    if pixels.shape[2] != len(channels.names):
        raise DataError(
            f"it has {pixels.shape[2]} channels; expected {len(channels.names)}: {', '.join(channels.names)}. Fix: "
            "name all of its channels in data.channels, in their order."
        )
    found = _pixel_type(pixels.dtype)
    if channels.nodata is not None:
        missing = pixels == channels.nodata
        pixels, found = pixels.astype(np.float32), "float32"
        pixels[missing] = np.nan
    if channels.dtype and found != channels.dtype:
        raise DataError(f"its pixels are {found}; those of the other images are {channels.dtype}.")
    return np.ascontiguousarray(pixels, dtype=found)


def channels_of_files(paths: Iterable[str], channels: Channels) -> Channels:
    """The channels with the type of the first file that can be read; RGB of 8 bits if nothing else is given.

    Raises the first error if none of 20 files can be read.
    """
    first = None
    for path in () if channels.dtype else islice(paths, _TRIED):
        try:
            found = replace(channels, dtype=cast(PixelType, str(read_pixels(path, channels).dtype)))
        except UnreadableFileError as error:  # data.on_error may leave it out
            first = first or error
            continue
        return RGB if found == replace(RGB, range=(), display=found.display) else found
    if first is not None:
        raise first
    return channels


def check_pixels(path: str | os.PathLike[str], channels: Channels) -> Header:
    """Returns an image's header, as `densevit.data.io.images.check_image`, which RGB of 8 bits is for; others are read
    as a whole."""
    return check_image(path) if channels.is_rgb else Header(read_pixels(path, channels).shape[:2])


def as_rgb(pixels: np.ndarray, channels: Channels) -> np.ndarray:
    """An image (H, W, C) as it is drawn, (H, W, 3) uint8: of the displayed channels, each stretched between its
    percentiles 1 and 99 in the image; NaN is black. RGB of 8 bits is unchanged."""
    if channels.is_rgb:
        return pixels
    chosen = np.moveaxis(pixels[..., channels.displayed], 2, 0).astype(np.float32)
    levels = np.zeros(chosen.shape, np.uint8)
    for plane, level in zip(chosen, levels, strict=True):
        known = np.isfinite(plane)
        if known.any():
            low, high = np.percentile(plane[known], (1, 99))
            level[known] = (((plane[known] - low) / max(high - low, 1e-12)).clip(0, 1) * 255).round()
    return np.ascontiguousarray(np.broadcast_to(levels.transpose(1, 2, 0), (*pixels.shape[:2], 3)))


def channel_paths(path: str | os.PathLike[str], channels: Channels) -> list[str]:
    """The files of an image: of each channel, if they have files of their own. path: that of the first channel."""
    given = os.fspath(path)
    if not channels.files:
        return [given]
    folder, name = os.path.split(given)
    stem, suffix = os.path.splitext(name)
    first = channels.files[0]
    if not stem.endswith(first):
        raise DataError(f"{given}: the name of a file of the channel {channels.names[0]!r} ends with {first!r}.")
    return [os.path.join(folder, stem.removesuffix(first) + part + suffix) for part in channels.files]


def _decoded(data: bytes, channels: Channels, upright: bool) -> np.ndarray:
    """(H, W, c), all channels of a file in its own type."""
    if data.startswith(_TIFF):
        return _of_tiff(data, upright)
    if data.startswith(_NPY):
        return _channels_last(np.load(io.BytesIO(data), allow_pickle=False), len(channels.names))
    if data.startswith(_EXR):
        return _of_exr(data, channels.names)
    with open_image(io.BytesIO(data)) as image:
        turned = partial(apply_orientation, orientation=orientation_of(image) if upright else 1)
        if image.format == "PNG":
            pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
            if pixels is not None and pixels.dtype == np.uint16:
                order = [2, 1, 0, 3][: pixels.shape[2]] if pixels.ndim == 3 else None
                return turned(pixels[..., None] if order is None else pixels[..., order])
        mode = {"P": "RGB", "1": "L", "CMYK": "RGB", "YCbCr": "RGB"}.get(image.mode, image.mode)
        pixels = np.asarray(image.convert(mode))
    return turned(pixels.reshape(*pixels.shape[:2], -1))


def _of_tiff(data: bytes, upright: bool) -> np.ndarray:
    """The bands of a TIFF's first image, and of further pages of its shape. It may have other axes besides height and
    width."""
    import tifffile  # late: most images are no TIFF

    with tifffile.TiffFile(io.BytesIO(data)) as file:
        series = file.series[0]
        axes, shape = series.axes, series.shape
        if not {"Y", "X"} <= set(axes):
            raise DataError(f"its axes are {axes}; a height and a width are expected.")
        check_size(shape[axes.index("X")], shape[axes.index("Y")])
        tag = cast(tifffile.TiffPage, file.pages[0]).tags.get(int(ExifTags.Base.Orientation))
        orientation = 1 if tag is None or not upright else int(tag.value)
        pages = [page for page in file.series if (page.axes, page.shape, page.dtype) == (axes, shape, series.dtype)]
        planes = [np.moveaxis(page.asarray(), (axes.index("Y"), axes.index("X")), (0, 1)) for page in pages]
    pixels = np.concatenate([plane.reshape(*plane.shape[:2], -1) for plane in planes], axis=2)
    return apply_orientation(pixels, orientation)


def _of_exr(data: bytes, names: Sequence[str]) -> np.ndarray:
    """The channels of an EXR file in this order; R, G and B are red, green and blue."""
    from densevit.data.io.depth_files import open_exr  # late: with OpenEXR, which is not always installed

    with open_exr().File(io.BytesIO(data), separate_channels=True) as file:
        found = {_EXR_NAMES.get(name, name): one.pixels for name, one in file.channels().items()}
    missing = [name for name in names if name not in found] if len(found) > 1 else []
    if missing:
        raise DataError(f"it has the channels {', '.join(found)}; {missing[0]!r} is missing.")
    return np.stack([found[name] for name in names] if len(found) > 1 else [*found.values()], axis=2)


def _channels_last(array: np.ndarray, count: int) -> np.ndarray:
    """(H, W), (H, W, C) or (C, H, W) -> (H, W, C)."""
    if array.ndim == 2:
        return array[..., None]
    if array.ndim == 3 and array.shape[2] != count == array.shape[0]:
        return array.transpose(1, 2, 0)
    if array.ndim != 3:
        raise DataError(f"its array has the shape {array.shape}; (H, W), (H, W, C) or (C, H, W) is expected.")
    return array


def _pixel_type(dtype: np.dtype) -> str:
    if dtype.kind not in "uif":
        raise DataError(f"its pixels are {dtype}; numbers are expected.")
    return str(dtype) if str(dtype) in FULL_RANGES else "float32"
