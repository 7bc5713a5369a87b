"""Random windows with the image's aspect ratio, resized to one size."""

import numpy as np

from densevit import Transforms
from densevit.interfaces import CropAndSize


class Zooms(Transforms):
    """Random windows with the image's aspect ratio, resized to one size. Evaluation resizes whole images.

    image_size: (h, w) of all images, or the side of a square. smallest: the least side of a window, as a share of the
        image's.
    """

    color_augmentation = "gentle"

    def __init__(self, image_size: int | tuple[int, int], smallest: float = 0.5) -> None:
        self.size = (image_size, image_size) if isinstance(image_size, int) else image_size
        self.smallest = smallest

    def evaluation_size(self, height: int, width: int) -> tuple[int, int]:
        return self.size

    def training_crop(
        self, height: int, width: int, rng: np.random.Generator, semantic: np.ndarray | None = None
    ) -> CropAndSize:
        share = rng.uniform(self.smallest, 1)
        h, w = max(1, int(share * height)), max(1, int(share * width))
        top, left = int(rng.integers(height - h + 1)), int(rng.integers(width - w + 1))
        return CropAndSize((top, left, top + h, left + w), self.size)
