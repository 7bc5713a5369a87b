"""Image inputs of `predict`: paths, PIL images and arrays."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps

from densevit.data.io.images import read_image, to_rgb
from densevit.errors import DataError
from densevit.interfaces import Sample


def as_sample(image: Any, image_id: int | str) -> Sample:
    """A path, a PIL image or an array ((H, W, 3) or (H, W), uint8, RGB) to a sample without labels.

    Raises DataError for other inputs and for unreadable files.
    """
    pixels = torch.from_numpy(_pixels(image)).permute(2, 0, 1)
    size = (pixels.shape[1], pixels.shape[2])
    return {"image": pixels, "targets": {"image_id": image_id, "size": size, "original_size": size}}


def _pixels(image: Any) -> np.ndarray:
    """(H, W, 3) uint8."""
    if isinstance(image, (str, Path)):
        return read_image(image)
    if isinstance(image, Image.Image):
        return to_rgb(ImageOps.exif_transpose(image))
    pixels = np.asarray(image)
    if pixels.ndim == 2:
        pixels = np.repeat(pixels[..., None], 3, axis=2)
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3 or not pixels.size:
        found = f"{pixels.shape} of {pixels.dtype}"
        raise DataError(f"A image given as an array is (H, W, 3) or (H, W) of uint8 in RGB; found {found}.")
    return np.require(pixels, requirements=["C", "W"])  # copies only where torch needs it
