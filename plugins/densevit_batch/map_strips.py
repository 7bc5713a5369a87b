"""Writes maps that are predicted in strips as tiled TIFFs: semantic/NAME.tif or depth/NAME.tif."""

import itertools
import math
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
from PIL import Image

from densevit.atomic_io import replaced_file
from densevit.data.io.map_files import MapFiles
from densevit.errors import DensevitError
from densevit.interfaces import Predictions, Size
from densevit.targets.types import as_array

TILE = 512  # rows and columns of the tiles of a TIFF
_MAX_TIFF = 1 << 31  # bytes of pixels; larger files are BigTIFF


def write_strips(
    maps: MapFiles, head: str, name: str, strips: Iterator[Predictions], size: Size, step: int
) -> dict[str, np.ndarray]:
    """Writes a head's map of an image of this size as a compressed, tiled TIFF, maps.folder_of(head)/KEY/name.tif, with
    the type and the colours of the file that `MapFiles.add` writes; depth in metres, float32.

    strips: the map from top to bottom, TILE rows each, perhaps fewer in the last. Returns by key the pixels whose row
    and column are multiples of `step`. Raises DensevitError unless there is exactly one map. The file appears when it
    is complete.
    """
    import tifffile  # late: most images are no TIFF

    first = next(strips)
    keys = maps.keys(head, first)
    if len(keys) != 1:
        raise DensevitError(
            f"{name}: heads.{head} predicts {', '.join(keys) or 'no map'}; one map per head is expected of a large "
            "image. Fix: cut the image into tiles."
        )
    [key] = keys
    decimated: list[np.ndarray] = []

    def encoded(value: np.ndarray) -> tuple[np.ndarray, list[int] | None]:
        """Returns the pixels (h, W) or (h, W, C) of the first file of `TargetType.encode`, and its palette."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about files that are not written here
            content = next(iter((maps.encoded(head, key, name, value) or {"": value}).values()))
        pixels = np.asarray(content)
        palette = content.getpalette() if isinstance(content, Image.Image) else None
        return pixels if pixels.ndim == 2 else np.moveaxis(pixels, 0, -1), palette

    def tiles() -> Iterator[np.ndarray]:
        for top, strip in zip(range(0, size[0], TILE), itertools.chain([first], strips), strict=True):
            value = as_array(strip[key])
            decimated.append(value[..., -top % step :: step, ::step].copy())
            pixels, _ = encoded(value)
            if pixels.dtype != form["dtype"]:
                raise DensevitError(f"{name}: `{key}` has pixels of no class only from row {top} on.")
            yield from (pixels[:, left : left + TILE] for left in range(0, size[1], TILE))

    pixels, palette = encoded(as_array(first[key]))
    form: dict[str, Any] = {"shape": (size[0], *pixels.shape[1:]), "dtype": pixels.dtype, "tile": (TILE, TILE)}
    form |= {"photometric": "minisblack", "compression": "zlib", "metadata": None, "maxworkers": 1}
    if palette is not None:
        colors = np.reshape(palette, (256, 3)).T.astype(np.uint16) * 257
        form |= {"photometric": "palette", "colormap": colors}
    path = maps.folder_of(head) / key / f"{name}.tif"
    path.parent.mkdir(parents=True, exist_ok=True)
    is_big = math.prod(form["shape"]) * pixels.dtype.itemsize > _MAX_TIFF
    with replaced_file(path) as partial, tifffile.TiffWriter(partial, bigtiff=is_big) as file:
        file.write(tiles(), **form)
    return {key: np.concatenate(decimated, axis=-2)}
