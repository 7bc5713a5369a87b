"""The transforms `lsj`: large-scale jitter."""

from collections.abc import Mapping

import numpy as np

from densevit.config.values import Scales, Side
from densevit.data.transforms.detr import DETR_LONG, DETR_SHORT
from densevit.data.transforms.exact_sides import maximum, minimum, scaled_by_least
from densevit.interfaces import CropAndSize, Size, Transforms

_SIDE = 1024  # default side of the canvas


class LargeScaleJitter(Transforms):
    """Large-scale jitter (Ghiasi et al. 2021, section 3), as detectron2's ResizeScale and FixedSizeCrop.

    In training, an image is resized to fit into the canvas times a random factor of `scales`, with its aspect ratio
    kept, then cropped at random or padded to the canvas.

    image_size: (h, w) of the canvas, or its side; None is the paper's 1024.
    short_side: the short side in evaluation; the long side is at most 1333 / 800 times it, as in detectron2. None fits
        images into the canvas.
    scales: the smallest and the largest random factor.

    detectron2 resizes and crops. Here the crop is computed on the original image, to whole pixels, resampled once.
    """

    def __init__(
        self, image_size: int | Size | None, short_side: Side | None = None, scales: Scales = (0.1, 2.0)
    ) -> None:
        side = _SIDE if image_size is None else image_size
        self.canvas: Size = (side, side) if isinstance(side, int) else side
        self.short_side, self.scales = short_side, scales

    def evaluation_size(self, height: int, width: int) -> Size:
        """Returns the size with `short_side`, or smaller so that the long side is within its bound; without
        `short_side`, the largest size that fits into the canvas."""
        if self.short_side is None:
            scales = ((self.canvas[0], height), (self.canvas[1], width))
        else:
            low, high = minimum(height, width), maximum(height, width)
            scales = ((self.short_side, low), (self.short_side * DETR_LONG, DETR_SHORT * high))
        return scaled_by_least(height, scales), scaled_by_least(width, scales)

    def evaluation_bounds(self) -> Mapping[str, float]:
        """Returns the bounds of the short and the long side, or the canvas."""
        if self.short_side is None:
            return {"height": self.canvas[0], "width": self.canvas[1]}
        return {"short_side": self.short_side, "long_side": self.short_side * DETR_LONG / DETR_SHORT}

    def training_crop(
        self, height: int, width: int, rng: np.random.Generator, semantic: np.ndarray | None = None
    ) -> CropAndSize:
        """Returns a random scale and crop. On both axes, the crop's offset is the same fraction of the length by which
        the scaled image exceeds the crop."""
        factor = rng.uniform(*self.scales)  # of the scale at which the image fits into the canvas
        scale = min(self.canvas[0] * factor / height, self.canvas[1] * factor / width)
        share = rng.random()
        (top, bottom, h), (left, right, w) = (
            _jittered_side(side, scale, crop, share) for side, crop in zip((height, width), self.canvas, strict=True)
        )
        return CropAndSize((top, left, bottom, right), (h, w))


def _jittered_side(side: int, scale: float, crop: int, share: float) -> tuple[int, int, int]:
    """Returns begin and end of the window on one axis, and the window's length after resizing."""
    scaled = max(1, round(side * scale))  # halves to even, as numpy's in detectron2
    length = min(scaled, crop)
    offset = round((scaled - length) * share)
    first = min(round(offset * side / scaled), side - 1)
    return first, max(round((offset + length) * side / scaled), first + 1), length
