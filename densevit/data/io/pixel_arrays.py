"""Converts images in memory to pixels: PIL images, arrays and tensors."""

from dataclasses import replace
from typing import Any

import numpy as np
from PIL import Image, ImageFile
from torch import Tensor

from densevit.channels import Channels
from densevit.data.io.channel_files import StoredPixels, joined, values_of_pil
from densevit.data.io.file_errors import naming_file
from densevit.data.io.rgb_files import orientation_of, to_rgb
from densevit.errors import DataError

_SHAPES = {"an array": "(H, W, 3) or (H, W)", "a tensor": "(3, H, W), (1, H, W) or (H, W)"}


def undecoded_content(image: Image.Image) -> bytes | None:
    """Returns the bytes of the file of a PIL image that is not decoded yet, None for other images. `read_image` decodes
    these bytes, because Pillow alone would reduce 16 bits to 8 and drop bands."""
    file: Any = getattr(image, "fp", None)
    if not (isinstance(image, ImageFile.ImageFile) and image.tile and file is not None and image.tell() == 0):
        return None
    position = file.tell()
    file.seek(0)
    content: bytes = file.read()
    file.seek(position)
    return content


def pixels_of_pil(image: Image.Image, channels: Channels, upright: bool, name: str) -> np.ndarray:
    """Converts a decoded PIL image in any mode to (H, W, C)."""
    with naming_file(name, "image", 0):  # PIL decodes some images only now; the file may be damaged
        values = to_rgb(image) if channels.is_rgb else values_of_pil(image)
        return _for_torch(joined([StoredPixels(values, orientation_of(image))], channels, upright))


def pixels_of_array(image: np.ndarray | Tensor, channels: Channels, name: str) -> np.ndarray:
    """Converts an array (H, W) or (H, W, C), or a tensor (H, W) or (C, H, W), to (H, W, C)."""
    noun = "an array" if isinstance(image, np.ndarray) else "a tensor"
    shape = tuple(image.shape)
    if len(shape) not in (2, 3):
        raise DataError(f"{name} is {noun} of shape {shape}. Expected two or three dimensions, of {channels}.")
    values = np.atleast_3d(_as_array(image))  # (H, W, C)
    if channels.is_rgb and values.shape[2] not in (1, 3):
        raise DataError(f"{name} is {noun} of shape {shape}. Expected {_SHAPES[noun]}, in RGB.")
    if not values.size:
        raise DataError(f"{name} has no pixels: its shape is {shape}.")
    if channels.is_rgb:
        values = _as_8_bits(values, name, noun)
        values = values if values.shape[2] == 3 else np.repeat(values, 3, axis=2)
    elif values.dtype.kind == "f" and channels.dtype == "float32":
        channels = replace(channels, stored="")  # floats of integer files: NaN marks missing pixels
    with naming_file(name, "image", values.nbytes):
        return _for_torch(joined([StoredPixels(values)], channels))


def _as_array(image: np.ndarray | Tensor) -> np.ndarray:
    if isinstance(image, np.ndarray):
        return image
    image = image.detach().cpu()
    image = image.float() if image.is_floating_point() else image  # numpy has no bfloat16
    return image.numpy() if image.ndim == 2 else image.permute(1, 2, 0).numpy()


def _for_torch(pixels: np.ndarray) -> np.ndarray:
    """Returns a contiguous, writable array without negative strides, as torch needs; copies only if necessary."""
    if min(pixels.strides) < 0:  # numpy considers a single row or column contiguous
        return pixels.copy()
    return np.require(pixels, requirements=["C", "W"])


def _as_8_bits(values: np.ndarray, name: str, noun: str) -> np.ndarray:
    """Returns uint8 unchanged and rounds floats in 0 ... 1 to multiples of 1/255."""
    if values.dtype == np.uint8:
        return values
    if values.dtype.kind == "f":
        least, most = float(values.min()), float(values.max())
        if least >= 0 and most <= 1:
            return np.rint(values * 255).astype(np.uint8)
        content = f"{values.dtype} from {least:g} to {most:g}"
        if least >= 0 and most <= 255:
            fix = "divide it by 255"
        else:
            fix = "pass the image without normalisation; the model normalises it"
    else:
        content, fix = str(values.dtype), "convert it to uint8"
    raise DataError(f"{name} is {noun} of {content}. Expected uint8 in 0 ... 255, or floats in 0 ... 1. Fix: {fix}.")
