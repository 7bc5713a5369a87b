"""Reads the stored values of depth files; `datasets/depth_values.py` converts them to depth.

PNG and TIFF are read by Pillow, NPY and NPZ by numpy, EXR by the OpenEXR package, PFM here.
"""

import os
import re
from collections.abc import Sequence
from pathlib import Path as FilePath
from typing import Any

import numpy as np
from PIL import Image

from densevit.data.io.file_errors import naming_file
from densevit.data.io.image_opening import open_image
from densevit.data.io.rgb_files import apply_orientation, orientation_of, upright_size_of
from densevit.data.io.tiff import ONE_MAP, stored_values
from densevit.errors import DataError

_IMAGES = (".png", ".tif", ".tiff")
SUFFIXES = (*_IMAGES, ".npy", ".npz", ".exr", ".pfm")
_MODES = ("1", "L", "I", "I;16", "I;16B", "I;16L", "F")  # Pillow's modes with one number per pixel
# Width, height and scale, each after white space and comment lines, as in PNM.
_PFM_HEADER = re.compile(rb"Pf%b(\d+)%b(\d+)%b(\S+)\s" % ((rb"(?:\s+#[^\n]*)*\s+",) * 3))

Path = str | os.PathLike[str]


def read_depth(path: Path, key: str | None = None) -> np.ndarray:
    """Returns (H, W), as stored: integers or float32.

    key: the array of an NPZ or the channel of an EXR. By default the only array or channel; of several EXR channels,
    the channel named Z or depth, or red if red, green and blue are equal. Arrays (H, W, 1) and (1, H, W) are accepted.
    PNG and TIFF are rotated by their EXIF orientation, as images are.
    Raises DataError with the file if it is damaged or has more than one number per pixel.
    """
    with naming_file(path, "depth file"):
        match suffix := os.path.splitext(path)[1].lower():
            case ".npy":
                return _plain(np.load(path, allow_pickle=False))
            case ".npz":
                with np.load(path, allow_pickle=False) as arrays:
                    return _plain(arrays[_named(key, arrays.files, "array")])
            case ".exr":
                return _plain(_read_exr(path, key))
            case ".pfm":
                return _read_pfm(path)
            case _ if suffix in _IMAGES:
                with open_image(path, ONE_MAP) as image:
                    _check_mode(image)
                    orientation = orientation_of(image)
                    return _plain(apply_orientation(stored_values(path, image), orientation))
        raise DataError(f"it is not a depth file; expected one of {', '.join(SUFFIXES)}.")


def depth_size_of(path: Path, key: str | None = None) -> tuple[int, int]:
    """Returns (h, w) of the result of `read_depth`; PNG and TIFF are read up to the header."""
    if not os.fspath(path).lower().endswith(_IMAGES):
        height, width = read_depth(path, key).shape
        return height, width
    with naming_file(path, "depth file"), open_image(path, ONE_MAP) as image:
        _check_mode(image)
        return upright_size_of(image)


def _check_mode(image: Image.Image) -> None:
    if image.mode not in _MODES:
        content = {"P": "a palette's indices", "RGB": "colours", "RGBA": "colours"}.get(image.mode, repr(image.mode))
        raise DataError(
            f"its pixels are {content}; expected one number per pixel, 8 or 16 bits or floating point. A depth map "
            "drawn in colours cannot be converted to metres."
        )


def _plain(values: np.ndarray) -> np.ndarray:
    """Returns values (H, W), (H, W, 1) or (1, H, W) as (H, W), integers or float32."""
    if values.dtype.kind not in "biuf":
        raise DataError(f"it holds {values.dtype}; expected numbers.")
    shape = values.shape
    if values.ndim == 3 and 1 in (shape[0], shape[2]):
        values = values.squeeze(2 if shape[2] == 1 else 0)
    if values.ndim != 2 or not values.size:
        raise DataError(f"its array has the shape {shape}; expected (H, W), (H, W, 1) or (1, H, W).")
    if values.dtype == bool:
        return values.astype(np.uint8)
    return values if values.dtype.kind in "iu" else np.ascontiguousarray(values, dtype=np.float32)


def _named(key: str | None, names: Sequence[str], what: str) -> str:
    """Returns `key` if it is one of `names`, or the only name if `key` is None. what: the noun for arrays or channels
    in messages."""
    if key in names:
        return str(key)
    if key is None and len(names) == 1:
        return names[0]
    lack = "which of them is the depth?" if key is None else f"there is no {what} {key!r}."
    raise DataError(f"{lack} It holds {', '.join(sorted(names)) or 'nothing'}. Name the {what} with data.key.")


def _read_pfm(path: Path) -> np.ndarray:
    """Returns (H, W) float32. Rows are stored bottom-up. The magnitude of the scale, a light unit, is ignored; its sign
    is the byte order. The pixels begin after one white-space character, or CR LF if a byte is left over for it."""
    data = FilePath(path).read_bytes()
    header = _PFM_HEADER.match(data)
    if header is None:
        raise DataError("it is not a PFM of one number per pixel, which begins with Pf.")
    width, height, scale, start = int(header[1]), int(header[2]), float(header[3]), header.end()
    is_crlf = data[start - 1 : start + 1] == b"\r\n" and len(data) > start + 4 * width * height
    values = np.frombuffer(data, "<f4" if scale < 0 else ">f4", width * height, start + is_crlf)
    return np.flipud(values.reshape(height, width)).astype(np.float32)


# ---- EXR ----


def _read_exr(path: Path, key: str | None) -> np.ndarray:
    with open_exr().File(os.fspath(path), separate_channels=True) as file:
        channels = {name: channel.pixels for name, channel in file.channels().items()}
    if key is None and len(channels) > 1:
        key = _depth_channel(channels)
    return np.array(channels[_named(key, list(channels), "channel")])  # a copy: the file is closed


def open_exr() -> Any:
    """Imports the OpenEXR package."""
    try:
        import OpenEXR
    except ImportError:
        raise DataError("EXR files need the package OpenEXR: pip install 'OpenEXR>=3.5'.") from None
    return OpenEXR


def _depth_channel(channels: dict[str, np.ndarray]) -> str | None:
    """Returns the channel named as depth ("Z", "ViewLayer.Depth.Z"), or red if the colours are equal."""
    named = [name for name in channels if name.rpartition(".")[2].lower() in ("z", "depth")]
    if len(named) == 1:
        return named[0]
    red, green, blue = (channels.get(name) for name in "RGB")
    if red is None or green is None or blue is None:
        return None
    is_grey = np.array_equal(green, red, equal_nan=True) and np.array_equal(blue, red, equal_nan=True)
    return "R" if is_grey else None
