"""Reads the stored values of depth files; `datasets/depth_values.py` converts them to depth.

PNG and TIFF are read by Pillow, NPY and NPZ by numpy, EXR by the OpenEXR package, PFM here.
"""

import os
import struct
import zipfile
from collections.abc import Sequence
from typing import IO, Any

import numpy as np
from PIL import Image

from densevit.data.io.file_errors import naming_file
from densevit.data.io.large_images import check_size, open_image
from densevit.data.io.rgb_files import apply_orientation, orientation_of, upright_size_of
from densevit.data.io.tiff import ONE_MAP, stored_values
from densevit.errors import DataError

SUFFIXES = (".png", ".npy", ".npz", ".exr", ".pfm", ".tif", ".tiff")

_ANNOUNCED = (".npy", ".npz", ".exr", ".pfm")  # formats whose readers allocate the size in the header

_MODES = ("1", "L", "I", "I;16", "I;16B", "I;16L", "F")  # Pillow's modes with one number per pixel
_EXR_MAGIC = b"\x76\x2f\x31\x01"

Path = str | os.PathLike[str]


def read_depth(path: Path, key: str | None = None) -> np.ndarray:
    """Returns (H, W), as stored: integers or float32.

    key: the array of an NPZ or the channel of an EXR. By default the only array, and of an EXR the only channel, the
    one named Z or depth, or red if red, green and blue are equal. Arrays (H, W, 1) and (1, H, W) are accepted.
    PNG and TIFF are rotated by their EXIF orientation, as images are.
    Raises DataError with the file if it is damaged or has more than one number per pixel.
    """
    if os.path.splitext(path)[1].lower() in _ANNOUNCED:
        depth_size_of(path, key)  # raises before the announced size is allocated
    with naming_file(path, "depth file"):
        match _suffix(path):
            case ".npy":
                values = np.load(path, allow_pickle=False)
            case ".npz":
                with np.load(path, allow_pickle=False) as arrays:
                    values = arrays[_named(key, arrays.files, "array")]
            case ".exr":
                values = _read_exr(path, key)
            case ".pfm":
                with open(path, "rb") as file:
                    values = _read_pfm(file)
            case _:
                with open_image(path, ONE_MAP) as image:
                    _check_mode(image)
                    orientation = orientation_of(image)
                    values = apply_orientation(stored_values(image), orientation)
        return _plain(values)


def depth_size_of(path: Path, key: str | None = None) -> tuple[int, int]:
    """Returns (h, w) of the result of `read_depth`, from the file's header."""
    with naming_file(path, "depth file"):
        match _suffix(path):
            case ".npy":
                with open(path, "rb") as file:
                    return _checked(_plain_shape(_shape_of_array(file)))
            case ".npz":
                with zipfile.ZipFile(path) as archive:
                    names = [name.removesuffix(".npy") for name in archive.namelist()]
                    with archive.open(_named(key, names, "array") + ".npy") as file:
                        return _checked(_plain_shape(_shape_of_array(file)))
            case ".exr":
                with open(path, "rb") as file:
                    return _checked(_size_of_exr(file))
            case ".pfm":
                with open(path, "rb") as file:
                    return _checked(_header_of_pfm(file)[0])
            case _:
                with open_image(path, ONE_MAP) as image:
                    _check_mode(image)
                    return upright_size_of(image)


def _suffix(path: Path) -> str:
    suffix = os.path.splitext(path)[1].lower()
    if suffix not in SUFFIXES:
        raise DataError(f"it is not a depth file; expected one of {', '.join(SUFFIXES)}.")
    return suffix


def _checked(size: tuple[int, int]) -> tuple[int, int]:
    check_size(size[1], size[0])
    return size


def _check_mode(image: Image.Image) -> None:
    if image.mode not in _MODES:
        kind = {"P": "a palette's indices", "RGB": "colours", "RGBA": "colours"}.get(image.mode, repr(image.mode))
        raise DataError(
            f"its pixels are {kind}; expected one number per pixel, 8 or 16 bits or floating point. A depth map drawn "
            "in colours cannot be converted to metres."
        )


def _plain(values: np.ndarray) -> np.ndarray:
    """Returns values as (H, W), integers or float32."""
    values = values.reshape(_plain_shape(values.shape))
    _check_kind(values.dtype)
    if values.dtype == bool:
        return values.astype(np.uint8)
    if values.dtype.kind in "iu":
        return values
    return np.ascontiguousarray(values, dtype=np.float32)


def _check_kind(kind: np.dtype) -> None:
    if kind.kind not in "biuf":
        raise DataError(f"it holds {kind}; expected numbers.")


def _plain_shape(shape: Sequence[int]) -> tuple[int, int]:
    height_and_width = shape
    if len(shape) == 3 and 1 in (shape[0], shape[2]):
        height_and_width = shape[:2] if shape[2] == 1 else shape[1:]
    if len(height_and_width) != 2 or 0 in height_and_width:
        raise DataError(f"its array has the shape {tuple(shape)}; expected (H, W), (H, W, 1) or (1, H, W).")
    return height_and_width[0], height_and_width[1]


def _named(key: str | None, names: Sequence[str], what: str) -> str:
    """Returns the name of the requested array or channel."""
    if key in names:
        return str(key)
    if key is None and len(names) == 1:
        return names[0]
    lack = "which of them is the depth?" if key is None else f"there is no {what} {key!r}."
    raise DataError(f"{lack} It holds {', '.join(sorted(names)) or 'nothing'}. Name the {what} with data.key.")


def _shape_of_array(file: IO[bytes]) -> tuple[int, ...]:
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, kind = read(file)
    _check_kind(kind)
    return shape


# ---- PFM ----


def _header_of_pfm(file: IO[bytes]) -> tuple[tuple[int, int], str]:
    """Returns (h, w) and the byte order, "<" or ">", given by the sign of the third line."""
    kind, *numbers = (_token(file) for _ in range(4))
    if kind == b"PF":
        raise DataError("it is a PFM in colours (PF); expected one number per pixel (Pf).")
    if kind != b"Pf":
        raise DataError("it is not a PFM: it does not begin with Pf.")
    width, height = int(numbers[0]), int(numbers[1])
    return (height, width), "<" if float(numbers[2]) < 0 else ">"


def _token(file: IO[bytes]) -> bytes:
    """Reads the next word of a header and the single white space after it."""
    word = b""
    while len(word) < 64:
        byte = file.read(1)
        if byte.isspace() or not byte:
            if word or not byte:
                return word
        else:
            word += byte
    raise DataError("its header is not a PFM header.")


def _read_pfm(file: IO[bytes]) -> np.ndarray:
    """Returns (H, W) float32. Rows are stored bottom-up. The magnitude of the scale, a light unit, is ignored."""
    (height, width), order = _header_of_pfm(file)
    data = file.read(4 * height * width)
    if len(data) < 4 * height * width:
        raise DataError(f"it ends after {len(data)} of {4 * height * width} bytes. Is the file cut short?")
    return np.flipud(np.frombuffer(data, f"{order}f4").reshape(height, width)).astype(np.float32)


# ---- EXR ----


def _size_of_exr(file: IO[bytes]) -> tuple[int, int]:
    """Returns (h, w) of the data window, from the header's attributes: name, kind, size and value."""
    if file.read(4) != _EXR_MAGIC:
        raise DataError("it is not an EXR file.")
    file.read(4)  # version and flags
    while name := _text(file):
        _text(file)
        (size,) = struct.unpack("<i", file.read(4))
        value = file.read(size)
        if name == b"dataWindow":
            left, top, right, bottom = struct.unpack("<4i", value)
            return bottom - top + 1, right - left + 1
    raise DataError("it is an EXR without a data window. Is the file cut short?")


def _text(file: IO[bytes]) -> bytes:
    """Reads the text before the next zero byte."""
    text = b""
    while (byte := file.read(1)) not in (b"\0", b""):
        text += byte
    return text


def _read_exr(path: Path, key: str | None) -> np.ndarray:
    OpenEXR = open_exr()
    with OpenEXR.File(os.fspath(path), separate_channels=True) as file:
        channels = {name: channel.pixels for name, channel in file.channels().items()}
    if key is None and len(channels) > 1:
        key = _depth_channel(channels)
    return np.array(channels[_named(key, list(channels), "channel")])  # a copy: the file is closed


def open_exr() -> Any:
    """Imports the OpenEXR package."""
    try:
        import OpenEXR
    except ImportError:
        raise DataError(
            "EXR files need the package OpenEXR, which is not installed: pip install 'OpenEXR>=3.3'."
        ) from None
    if not hasattr(OpenEXR, "File"):
        raise DataError("this OpenEXR package is too old; expected 3.3 or newer: pip install 'OpenEXR>=3.3'.")
    return OpenEXR


def _depth_channel(channels: dict[str, np.ndarray]) -> str | None:
    """Returns the channel named as depth ("Z", "ViewLayer.Depth.Z"), or red if the colours are equal."""
    named = [name for name in channels if name.rpartition(".")[2].lower() in ("z", "depth")]
    if len(named) == 1:
        return named[0]
    colors = [channels.get(name) for name in "RGB"]
    red = colors[0]
    if red is not None and all(one is not None and np.array_equal(one, red, equal_nan=True) for one in colors):
        return "R"
    return None
