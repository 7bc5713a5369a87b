"""Pictures as people hand them over: paths, PIL pictures, arrays."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps

from densevit.data.io.images import read_image, to_rgb
from densevit.errors import DataError
from densevit.interfaces import Sample


def as_sample(picture: Any, image_id: int | str) -> Sample:
    """A path, a PIL picture or an array ((H, W, 3) or (H, W), uint8, RGB) as a sample without labels.

    Raises DataError where it is none of these, or the file cannot be read.
    """
    pixels = torch.from_numpy(_pixels(picture)).permute(2, 0, 1)
    size = (pixels.shape[1], pixels.shape[2])
    return {"image": pixels, "targets": {"image_id": image_id, "size": size, "original_size": size}}


def _pixels(picture: Any) -> np.ndarray:
    """(H, W, 3) uint8."""
    if isinstance(picture, (str, Path)):
        return read_image(picture)
    if isinstance(picture, Image.Image):
        return to_rgb(ImageOps.exif_transpose(picture))
    pixels = np.asarray(picture)
    if pixels.ndim == 2:
        pixels = np.repeat(pixels[..., None], 3, axis=2)
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3 or not pixels.size:
        found = f"{pixels.shape} of {pixels.dtype}"
        raise DataError(f"A picture given as an array is (H, W, 3) or (H, W) of uint8 in RGB; found {found}.")
    return np.require(pixels, requirements=["C", "W"])  # copies only what torch could not take
