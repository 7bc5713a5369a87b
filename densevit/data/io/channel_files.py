"""Decodes images whose channels are not 8-bit RGB: TIFF with bands or pages, 16-bit PNG, EXR, NPY, or a file per
channel.

tifffile decodes TIFF, OpenEXR EXR, OpenCV 16-bit PNG and Pillow the rest. Values are as stored; types other than uint8
and uint16 become float32.
"""

import io
import os
from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np
from PIL import Image

from densevit.channels import Channels
from densevit.data.io.image_opening import open_image
from densevit.data.io.rgb_files import apply_orientation, orientation_of
from densevit.data.io.tiff import TIFF_MAGIC
from densevit.data.io.tiff_channels import decode_tiff
from densevit.errors import DataError, counted

IMAGES = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".tif", ".tiff", ".webp")
SUFFIXES = (".npy", ".exr")
"""Suffixes of images with other channels, besides those of RGB images."""
_NPY, _EXR = b"\x93NUMPY", b"v/1\x01"
OTHER_FORMATS = (*TIFF_MAGIC, _NPY, _EXR)
"""First bytes of the formats that Pillow does not read, or reads in part."""
_EXR_NAMES = {"R": "red", "G": "green", "B": "blue"}
_COLOR_TYPE_OF_PNG = 25  # the byte of a PNG: grey, RGB, grey with alpha, RGB with alpha
_PNG_ORDERS = {0: [0], 2: [2, 1, 0], 4: [0, 3], 6: [2, 1, 0, 3]}  # OpenCV's channel indices; grey with alpha is BGRA


class StoredPixels(NamedTuple):
    """The pixels of a file. values: (H, W, c), as stored. orientation: EXIF's, 1 ... 8. nodata: the file's value for
    pixels without data."""

    values: np.ndarray
    orientation: int = 1
    nodata: float | None = None


def decode_channels(data: bytes, names: Sequence[str]) -> StoredPixels:
    """Decodes all channels of a file in the stored type. names: the channels' names: an EXR is read by name, and their
    number tells the layout of an array."""
    if data.startswith(TIFF_MAGIC):
        return StoredPixels(*decode_tiff(data, len(names)))
    if data.startswith(_NPY):
        return StoredPixels(channels_last(np.load(io.BytesIO(data), allow_pickle=False), len(names)))
    if data.startswith(_EXR):
        return StoredPixels(_decode_exr(data, names))
    with open_image(io.BytesIO(data)) as image:
        orientation = orientation_of(image)
        if image.format == "PNG":
            pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
            if pixels is not None and pixels.dtype == np.uint16:
                order = _PNG_ORDERS[data[_COLOR_TYPE_OF_PNG]]
                return StoredPixels(np.atleast_3d(pixels)[..., order], orientation)
        return StoredPixels(values_of_pil(image), orientation)


def values_of_pil(image: Image.Image) -> np.ndarray:
    """Converts a Pillow image to (H, W, c): palettes are looked up, and colours are RGB."""
    mode = {"P": "RGB", "1": "L", "CMYK": "RGB", "YCbCr": "RGB"}.get(image.mode, image.mode)
    return np.atleast_3d(np.array(image.convert(mode)))


def joined(parts: Sequence[StoredPixels], channels: Channels, upright: bool = True) -> np.ndarray:
    """Joins the pixels of files to an image (H, W, C) in the type of the channels; pixels without data become NaN.

    Raises DataError for another number of channels or another type, and for pixels without data in an integer type.
    """
    values = [part.values for part in parts]
    count, expected = sum(array.shape[2] for array in values), len(channels.names)
    if count != expected:
        fix = (
            "give the path, as each channel has a file"
            if channels.files
            else "name all in data.channels, in their order"
        )
        raise DataError(
            f"it has {counted(count, 'channel')}; expected {expected}: {', '.join(channels.names)}. Fix: {fix}."
        )
    kinds = [pixel_type(array.dtype) for array in values]
    usual = channels.stored or (channels.dtype if channels.nodata is None else "") or kinds[0]
    other = next((other_type for other_type in kinds if other_type != usual), None)
    if other is not None:
        raise DataError(f"its pixels are {other}; those of the other images are {usual}.")
    if channels.is_rgb:
        return apply_orientation(values[0], parts[0].orientation) if upright else values[0]
    missing = [_missing(array, channels.nodata) for array in parts]
    dtype = channels.dtype or ("float32" if usual not in ("uint8", "uint16") or channels.nodata is not None else usual)
    if dtype != "float32" and any(mask is not None and mask.any() for mask in missing):
        raise DataError(
            f"it names the value {parts[0].nodata:g} of pixels without data, which {dtype} cannot have. Fix: "
            f"data.nodata={parts[0].nodata:g}."
        )
    planes = []
    for part, absent in zip(parts, missing, strict=True):
        with np.errstate(over="ignore"):  # a value that is infinite in float32 has no data
            plane = part.values.astype(dtype, copy=False)
        if absent is not None and dtype == "float32":
            plane = np.where(absent, np.float32(np.nan), plane)
        planes.append(apply_orientation(plane, part.orientation) if upright else plane)
    return np.ascontiguousarray(planes[0] if len(planes) == 1 else np.concatenate(planes, axis=2))


def _missing(part: StoredPixels, nodata: float | None) -> np.ndarray | None:
    """Returns which pixels have no data: those with the value `nodata` of the data set or of the file. None if neither
    defines such a value."""
    nodata_values = [value for value in (nodata, part.nodata) if value is not None]
    with np.errstate(over="ignore"):
        return np.logical_or.reduce([part.values == value for value in nodata_values]) if nodata_values else None


def as_rgb(pixels: np.ndarray, channels: Channels) -> np.ndarray:
    """Converts an image (H, W, C) to RGB (H, W, 3) uint8 for drawing: stretches each displayed channel from the image's
    1st to its 99th percentile; NaN is black. 8-bit RGB is unchanged."""
    if channels.is_rgb:
        return pixels
    chosen = np.moveaxis(pixels[..., channels.displayed], 2, 0).astype(np.float32)
    levels = np.zeros(chosen.shape, np.uint8)
    for plane, level in zip(chosen, levels, strict=True):
        has_data = np.isfinite(plane)
        if has_data.any():
            low, high = np.percentile(plane[has_data], (1, 99))
            level[has_data] = (((plane[has_data] - low) / max(high - low, 1e-12)).clip(0, 1) * 255).round()
    return np.ascontiguousarray(np.broadcast_to(levels.transpose(1, 2, 0), (*pixels.shape[:2], 3)))


def channel_paths(path: str | os.PathLike[str], channels: Channels) -> list[str]:
    """Returns the files of an image: one, or one per channel. path: the file, or the first channel's file."""
    first_path = os.fspath(path)
    if not channels.files:
        return [first_path]
    folder, name = os.path.split(first_path)
    stem, suffix = os.path.splitext(name)
    first = channels.files[0]
    if not stem.endswith(first):
        raise DataError(f"{first_path}: the name of a file of the channel {channels.names[0]!r} ends with {first!r}.")
    return [os.path.join(folder, stem.removesuffix(first) + part + suffix) for part in channels.files]


def channels_last(array: np.ndarray, count: int) -> np.ndarray:
    """Converts (H, W), (H, W, C) or, if only the first side is the number of channels, (C, H, W) to (H, W, C)."""
    if array.ndim == 2:
        return array[..., None]
    if array.ndim == 3 and array.shape[2] != count == array.shape[0]:
        return array.transpose(1, 2, 0)
    if array.ndim != 3:
        raise DataError(f"its array has the shape {array.shape}; (H, W), (H, W, C) or (C, H, W) is expected.")
    return array


def pixel_type(dtype: np.dtype) -> str:
    """Returns the name of a pixel type, without byte order; all floating-point types are float32. Raises DataError
    unless pixels are numbers."""
    if dtype.kind not in "uif":
        raise DataError(f"its pixels are {dtype}; numbers are expected.")
    return "float32" if dtype.kind == "f" else dtype.name


def _decode_exr(data: bytes, names: Sequence[str]) -> np.ndarray:
    """Reads these channels of an EXR file, in this order; R, G and B are red, green and blue."""
    from densevit.data.io.depth_files import open_exr  # late: with OpenEXR, which is not always installed

    with open_exr().File(io.BytesIO(data), separate_channels=True) as file:
        planes = {_EXR_NAMES.get(name, name): channel.pixels for name, channel in file.channels().items()}
    missing = [name for name in names if name not in planes] if len(planes) > 1 else []
    if missing:
        raise DataError(f"it has the channels {', '.join(planes)}; {missing[0]!r} is missing.")
    return np.stack([planes[name] for name in names] if len(planes) > 1 else [*planes.values()], axis=2)
