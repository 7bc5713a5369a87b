"""The transforms `crop`: random scales and crops, as for semantic segmentation."""

import math
from collections.abc import Mapping
from typing import Annotated

import cv2
import numpy as np
from pydantic import Field

from densevit.config.values import Float, Scales, Side
from densevit.data.transforms.exact_sides import maximum, minimum, scaled_by_least
from densevit.errors import ConfigError
from densevit.interfaces import IGNORE, CropAndSize, Size, Transforms, Window

_LARGEST_SHARE = 0.75  # of one class in the labelled pixels of a crop
_TRIES = 10
_LONGEST = 4  # the maximum of the long side over the short side: mmsegmentation's (2048, 512)


class Crop(Transforms):
    """The usual crops for semantic segmentation, as in mmsegmentation: a random scale and a crop of mixed classes.

    mmsegmentation resizes and crops. Here the crop is computed on the original image, resampled once.

    image_size: (h, w) of the training crop, or its side.
    short_side: the short side in evaluation, and in training before random scaling; None keeps the image's.
    scales: the smallest and the largest random scale.
    rotation: the largest random rotation before the crop, in degrees; None: none. Added pixels have the values of
        `new_pixels`, black in RGB, and are unlabelled.
    object_crops: the share of crops placed at random around an object, for large images with few objects; None: none.
    min_visible: objects with a smaller share of their box's area inside the crop are left out; None keeps all objects
        that are partly inside.
    """

    color_augmentation = "photometric"

    def __init__(
        self,
        image_size: int | Size | None,
        short_side: Side | None = None,
        scales: Scales = (0.5, 2.0),
        rotation: Annotated[Float, Field(gt=0, le=180)] | None = None,
        object_crops: Annotated[Float, Field(gt=0, le=1)] | None = None,
        min_visible: Annotated[Float, Field(gt=0, le=1)] | None = None,
    ) -> None:
        self.canvas: Size = crop_size(image_size, "crop")
        self.short_side, self.scales = short_side, scales
        self.rotation, self.object_crops, self.min_visible = rotation or 0.0, object_crops or 0.0, min_visible or 0.0

    def rescale(self, factor: float) -> None:
        """Scales `scales` by the factor, so that a crop of another size shows the same part of an image."""
        self.scales = (self.scales[0] * factor, self.scales[1] * factor)

    def evaluation_size(self, height: int, width: int) -> Size:
        """Returns the size with `short_side`, or smaller so that the long side is at most four times it.

        Rounds half up, as mmcv, whose floating-point scale may round an exact half down.
        """
        if self.short_side is None:
            return height, width
        low, high = minimum(height, width), maximum(height, width)
        scales = ((self.short_side, low), (_LONGEST * self.short_side, high))
        return scaled_by_least(height, scales), scaled_by_least(width, scales)

    def evaluation_bounds(self) -> Mapping[str, float]:
        """Returns the bounds of the short and the long side; empty without `short_side`."""
        if self.short_side is None:
            return {}
        return {"short_side": self.short_side, "long_side": _LONGEST * self.short_side}

    def training_crop(
        self, height: int, width: int, rng: np.random.Generator, semantic: np.ndarray | None = None
    ) -> CropAndSize:
        """Returns a random scale and crop: of ten crops the first with mixed classes in `semantic`, (height, width)
        uint8, or else the last. If the scaled image is smaller than the crop on an axis, that axis is padded.
        """
        scale = self._evaluation_scale(height, width) * rng.uniform(*self.scales)
        (h, out_h), (w, out_w) = (
            _cropped_side(side, scale, crop) for side, crop in zip((height, width), self.canvas, strict=True)
        )
        for _ in range(_TRIES):
            top, left = int(rng.integers(height - h + 1)), int(rng.integers(width - w + 1))
            is_full = (h, w) == (height, width)
            if is_full or semantic is None or is_mixed(semantic[top : top + h, left : left + w]):
                break
        return CropAndSize((top, left, top + h, left + w), (out_h, out_w))

    def training_crop_with_boxes(
        self,
        height: int,
        width: int,
        rng: np.random.Generator,
        semantic: np.ndarray | None = None,
        boxes: np.ndarray | None = None,
    ) -> CropAndSize:
        """Returns the result of `training_crop`; with probability `object_crops`, moves it around a random object."""
        window, size = self.training_crop(height, width, rng, semantic)
        if self.object_crops and boxes is not None and len(boxes) and rng.random() < self.object_crops:
            window = window_around(boxes[rng.integers(len(boxes))], window, (height, width), rng)
        return CropAndSize(window, size)

    def _evaluation_scale(self, height: int, width: int) -> float:
        if self.short_side is None:
            return 1.0
        return min(self.short_side / min(height, width), _LONGEST * self.short_side / max(height, width))


def crop_size(image_size: int | Size | None, name: str) -> Size:
    """Returns (h, w) of a crop. name: the transforms' name, for the message. Raises ConfigError without a size."""
    if image_size is None:
        raise ConfigError(
            f"data.image_size is missing: the transforms {name!r} need the crop's side or [height, width]."
        )
    return (image_size, image_size) if isinstance(image_size, int) else image_size


def window_around(box: np.ndarray, window: Window, size: Size, rng: np.random.Generator) -> Window:
    """Returns a window of the same size at a random position that contains a box (4,) xyxy, or its centre if the box is
    larger, as in nnU-Net, which places a third of its crops around objects (Isensee et al. 2021).
    """
    edges = []
    for axis, (low, high, limit) in enumerate(zip(window[:2], window[2:], size, strict=True)):
        side, (start, end) = high - low, (float(box[1 - axis]), float(box[3 - axis]))
        if math.ceil(end) - math.floor(start) > side:
            start = end = (start + end) / 2
        last = limit - side
        first = min(max(math.ceil(end) - side, 0), last)
        edges.append(int(rng.integers(first, min(max(math.floor(start), first), last) + 1)))
    top, left = edges
    return (top, left, top + window[2] - window[0], left + window[3] - window[1])


def is_mixed(semantic: np.ndarray) -> bool:
    """Whether several classes are labelled in a crop and none has more than 75 % of the labelled pixels.

    semantic: (H, W) uint8. Corresponds to mmsegmentation's `cat_max_ratio`, which excludes exactly 75 %.
    """
    counts = cv2.calcHist([semantic], [0], None, [256], [0, 256]).ravel()
    counts[IGNORE] = 0
    return bool(np.count_nonzero(counts) > 1 and counts.max() <= _LARGEST_SHARE * counts.sum(dtype=np.float64))


def _scaled_side(side: int, scale: float) -> int:
    return max(1, int(side * scale + 0.5))


def _cropped_side(side: int, scale: float, crop: int) -> tuple[int, int]:
    """Returns the crop's length on one axis before and after resizing."""
    scaled = _scaled_side(side, scale)
    if scaled <= crop:
        return side, scaled
    return min(side, max(1, round(crop / scale))), crop
