"""Names of the channels in an image file, if no config names them."""

import os
import re

import numpy as np

from densevit.channels import COLORS
from densevit.data.io.channel_files import decode_channels
from densevit.data.io.depth_files import open_exr
from densevit.data.io.file_errors import naming_file
from densevit.data.io.tiff_channels import opened_tiff

_EXR_NAMES = {"R": "red", "G": "green", "B": "blue"}
_GDAL_METADATA = 42112  # the tag of a TIFF
_NAME = re.compile(r'(?<=<Channel )[^>]*\bName="([^"]+)|<Item name="DESCRIPTION"[^>]*>([^<]+)')  # OME-XML, GDAL


def channel_names(file: str) -> tuple[str, ...]:
    """Reads channel names from a file's metadata; without metadata red, green and blue, or grey, or band1, band2, ...

    Raises UnreadableFileError.
    """
    suffix, is_rgb, names = os.path.splitext(file)[1].lower(), False, []
    with naming_file(file, "image"):
        if suffix == ".exr":
            with open_exr().File(file, separate_channels=True) as exr:
                return tuple(sorted((_EXR_NAMES.get(name, name) for name in exr.channels()), key=colors_first))
        if suffix == ".npy":
            shape = np.load(file, mmap_mode="r").shape
            count = 1 if len(shape) == 2 else min(shape[0], shape[-1])
        else:
            with open(file, "rb") as opened:
                count = decode_channels(opened.read(), ()).values.shape[2]
            is_rgb = count > 2
        if suffix in (".tif", ".tiff"):
            with opened_tiff(file) as tiff:
                page = tiff.pages.first
                is_rgb = page.photometric.name in ("RGB", "PALETTE", "YCBCR")
                metadata = tiff.ome_metadata or page.tags.valueof(_GDAL_METADATA, default="")
                names = [ome or gdal for ome, gdal in _NAME.findall(metadata)]
    if len(set(names)) == len(names) == count:
        return tuple(names)
    colors = COLORS if is_rgb else ()
    return ("grey",) if count == 1 else (*colors, *(f"band{i + 1}" for i in range(len(colors), count)))


def colors_first(name: str) -> tuple[int, str]:
    """A sort key: red, green, blue, then other names."""
    return (COLORS.index(name), "") if name in COLORS else (len(COLORS), name)
