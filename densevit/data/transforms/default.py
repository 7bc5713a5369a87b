"""The transforms `default` and `resize`: one size for all images."""

import math
from collections.abc import Mapping

import numpy as np

from densevit.data.transforms.exact_sides import maximum, minimum, nearest_multiple, rounded_ratio
from densevit.errors import ConfigError
from densevit.interfaces import CropAndSize, Size, Transforms

_ZOOM = 1.25  # the largest zoom factor, in and out
_ZOOMED = 0.5  # the probability of a zoom


class DefaultTransforms(Transforms):
    """One size for all images: the long side, or bounds (h, w). Training zooms half of the images by up to 1.25.

    Zooming in crops; zooming out makes the image smaller, with more padding in the batch.

    image_size: the long side; (h, w), which images fit into and are padded to; None keeps the image's size.
    multiple: both sides are rounded to the nearest multiple of this number, which changes the aspect ratio a little, as
        in the authors' code of Depth Anything 3; None keeps it, and models pad images to their patches.
    """

    color_augmentation = "gentle"

    def __init__(self, image_size: int | Size | None, multiple: int | None = None) -> None:
        if multiple is not None and multiple < 1:
            raise ConfigError(f"data.transforms.multiple is {multiple}; a number of pixels of 1 or more is expected.")
        self.image_size, self.multiple = image_size, multiple
        self.canvas = self.evaluation_canvas = image_size if isinstance(image_size, tuple) else None

    def evaluation_size(self, height: int, width: int) -> Size:
        """Returns the largest size with the image's aspect ratio that fits, or the nearest multiples that fit."""
        if self.image_size is None:
            return nearest_multiple(height, self.multiple), nearest_multiple(width, self.multiple)
        bound = (self.image_size, self.image_size) if isinstance(self.image_size, int) else self.image_size
        h = maximum(1, minimum(bound[0], rounded_ratio(height * bound[1], width)))
        w = maximum(1, minimum(bound[1], rounded_ratio(width * bound[0], height)))
        return nearest_multiple(h, self.multiple, bound[0]), nearest_multiple(w, self.multiple, bound[1])

    def evaluation_bounds(self) -> Mapping[str, float]:
        """Returns the bound of the long side, or of height and width."""
        if self.image_size is None:
            return {}
        return (
            {"height": self.image_size[0], "width": self.image_size[1]}
            if isinstance(self.image_size, tuple)
            else {"long_side": self.image_size}
        )

    def training_crop(
        self, height: int, width: int, rng: np.random.Generator, semantic: np.ndarray | None = None
    ) -> CropAndSize:
        """Returns the image and size of evaluation, for half of the images zoomed."""
        size = self.evaluation_size(height, width)
        zoom = _ZOOM ** rng.uniform(-1, 1) if rng.random() < _ZOOMED else 1.0
        if zoom <= 1:
            return CropAndSize((0, 0, height, width), (max(1, round(size[0] * zoom)), max(1, round(size[1] * zoom))))
        h, w = math.ceil(height / zoom), math.ceil(width / zoom)
        top, left = int(rng.integers(height - h + 1)), int(rng.integers(width - w + 1))
        return CropAndSize((top, left, top + h, left + w), size)


class Resize(DefaultTransforms):
    """`default` without augmentation: training images are resized as in evaluation.

    stretch: resizes to (h, w), or to a square of the side, without keeping the aspect ratio.
    """

    augments = False

    def __init__(self, image_size: int | Size | None, stretch: bool = False) -> None:
        super().__init__(image_size)
        if stretch and image_size is None:
            raise ConfigError("data.transforms.stretch needs a size. Fix: set data.image_size.")
        self.stretch = stretch

    def evaluation_size(self, height: int, width: int) -> Size:
        """Returns the size of the resized image."""
        if self.stretch and self.image_size is not None:
            return self.image_size if isinstance(self.image_size, tuple) else (self.image_size, self.image_size)
        return super().evaluation_size(height, width)

    def evaluation_bounds(self) -> Mapping[str, float]:
        """Returns the bound of the long side, or of height and width."""
        if self.stretch:
            return dict(zip(("height", "width"), map(float, self.evaluation_size(1, 1)), strict=True))
        return super().evaluation_bounds()
