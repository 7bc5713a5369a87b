"""The transforms `detr`: multi-scale augmentation."""

from collections.abc import Mapping

import numpy as np

from densevit.data.transforms.exact_sides import resize_short_side
from densevit.errors import ConfigError
from densevit.interfaces import CropAndSize, Size, Transforms

DETR_SHORT, DETR_LONG = 800, 1333
_SCALES = tuple(range(480, 801, 32))  # short sides
_CROP_SCALES = (400, 500, 600)  # short sides before the crop
_CROP = (384, 600)  # minimum and maximum side of the crop


class DetrTransforms(Transforms):
    """DETR's augmentation (Carion et al. 2020, appendix A.4): a random short side, for half of the images after a crop.

    The paper resizes, crops and resizes again. Here the crop is computed on the original image, resampled once.

    image_size: (short, long), the short side and the maximum long side in evaluation; training scales are proportional
        to them. An integer is the short side, with a long side in the paper's proportion; None is (800, 1333).
    """

    def __init__(self, image_size: int | Size | None) -> None:
        short = DETR_SHORT if image_size is None else image_size
        self.short, self.longest = (short, round(short * DETR_LONG / DETR_SHORT)) if isinstance(short, int) else short
        if self.short > self.longest:
            raise ConfigError(
                "data.image_size: the transforms 'detr' take [short side, maximum long side], not "
                f"{[self.short, self.longest]}."
            )

    def evaluation_size(self, height: int, width: int) -> Size:
        """Returns the size with the short side of `image_size`, or smaller so that the long side is within its
        maximum."""
        return resize_short_side(height, width, self.short, self.longest)

    def evaluation_bounds(self) -> Mapping[str, float]:
        """Returns the bounds of the short and the long side."""
        return {"short_side": self.short, "long_side": self.longest}

    def training_crop(
        self, height: int, width: int, rng: np.random.Generator, semantic: np.ndarray | None = None
    ) -> CropAndSize:
        """Returns a random size or crop: resizing, or resizing, cropping and resizing, with probability 0.5 each."""
        is_uncropped = rng.random() < 0.5
        short = self._scaled(int(rng.choice(_SCALES)))
        if is_uncropped:
            return CropAndSize((0, 0, height, width), resize_short_side(height, width, short, self.longest))
        middle = resize_short_side(height, width, self._scaled(int(rng.choice(_CROP_SCALES))))
        least, most = map(self._scaled, _CROP)
        h, w = (int(rng.integers(min(least, side), min(most, side) + 1)) for side in middle)
        top, left = int(rng.integers(middle[0] - h + 1)), int(rng.integers(middle[1] - w + 1))
        down, right = height / middle[0], width / middle[1]
        first, begin = min(round(top * down), height - 1), min(round(left * right), width - 1)
        last, end = max(round((top + h) * down), first + 1), max(round((left + w) * right), begin + 1)
        return CropAndSize((first, begin, last, end), resize_short_side(h, w, short, self.longest))

    def _scaled(self, side: int) -> int:
        return round(side * self.short / DETR_SHORT)
