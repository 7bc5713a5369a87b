"""The target type of the focal length of an image's camera."""

import math
from typing import Any, Literal

import numpy as np

from densevit.errors import DataError
from densevit.interfaces import Size, TargetType


class FocalLength(TargetType):
    """A focal length in pixels of the image, one number. Crops, flips and rotations keep it.

    under_zoom: that of the depth. "divide": the focal length without the zoom, by which depth is divided instead.
    """

    def __init__(self, under_zoom: Literal["divide", "keep"] = "divide") -> None:
        self.under_zoom = under_zoom

    def check(self, value: Any, size: Size) -> None:
        number = np.asarray(value)
        if number.ndim or number.dtype.kind not in "iuf" or not 0 < number < math.inf:
            raise DataError(f"is {value!r}; expected one number of pixels above 0.")

    def resize(self, value: Any, size: Size, new_size: Size, zoom: float = 1.0) -> np.ndarray:
        scale = math.sqrt(math.prod(new_size) / math.prod(size))
        return np.asarray(value * (scale / zoom if self.under_zoom == "divide" else scale), np.float32)

    def paste(self, value: Any, pasted: Any, covered: np.ndarray) -> Any:
        """Keeps the focal length of the first image."""
        return value
