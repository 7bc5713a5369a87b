"""The augmentation of the recipes of RT-DETR and D-FINE: images of one size, without their aspect ratio."""

import numpy as np

from densevit.errors import ConfigError
from densevit.interfaces import Frame, Recipe, Size

CROPPED = 0.8  # of the training images
_AREA, _ASPECT = (0.3, 1.0), (0.5, 2.0)  # of a crop: its sides relative to the image's, and their ratio


class Stretch(Recipe):
    """Resizes images to `image_size` whatever their aspect ratio, in training mostly of a crop (`data.recipe`).

    image_size: (h, w), or the side of a square. A crop has sides of 0.3 to 1 of the image's and a ratio of sides of 0.5
    to 2, as the authors' IoU crop, which also looks at the boxes; they enlarge half of the images by a border as well.
    """

    recoloring = "photometric"

    def __init__(self, image_size: int | Size | None) -> None:
        if image_size is None:
            raise ConfigError("data.image_size is missing: the recipe needs [height, width], or the side of a square.")
        self.size: Size = (image_size, image_size) if isinstance(image_size, int) else image_size
        self.canvas = self.evaluation_canvas = self.size

    def evaluation_size(self, height: int, width: int) -> Size:
        """Returns the size of all images."""
        return self.size

    def training_frame(
        self, height: int, width: int, rng: np.random.Generator, semantic: np.ndarray | None = None
    ) -> Frame:
        """Returns a crop, or the image in a fifth of the cases, always in the same size."""
        if rng.random() < CROPPED:
            for _ in range(40):
                h, w = (max(1, round(side * rng.uniform(*_AREA))) for side in (height, width))
                if _ASPECT[0] <= w / h <= _ASPECT[1]:
                    top, left = int(rng.integers(height - h + 1)), int(rng.integers(width - w + 1))
                    return Frame((top, left, top + h, left + w), self.size)
        return Frame((0, 0, height, width), self.size)


class PlainStretch(Stretch):
    """Resizes whole images to `image_size` and keeps their colours: for the last epochs (`data.final_phase`)."""

    recoloring = "none"

    def training_frame(
        self, height: int, width: int, rng: np.random.Generator, semantic: np.ndarray | None = None
    ) -> Frame:
        """Returns the whole image."""
        return Frame((0, 0, height, width), self.size)
