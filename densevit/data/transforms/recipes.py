"""Geometry of the augmentation recipes: random windows and target sizes, without pixels.

Evaluation sizes are exact integer arithmetic without branches on the image's size, so that exported files compute them
too, with height and width as symbols of `torch.export` (`densevit export --resize`).
"""

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np

from densevit.data.transforms.exact_sides import maximum, minimum, resize_short_side, rounded_ratio
from densevit.errors import ConfigError
from densevit.interfaces import IGNORE, Frame, Recipe, Size

Recoloring = Literal["none", "gentle", "photometric"]

DETR_SHORT, DETR_LONG = 800, 1333
_DETR_SCALES = tuple(range(480, 801, 32))  # short sides
_DETR_CROP_SCALES = (400, 500, 600)  # short sides before the crop
_DETR_CROP = (384, 600)  # minimum and maximum side of the crop

_ZOOM = 1.25  # the largest zoom factor of `fixed`, in and out
_ZOOMED = 0.5  # the probability of a zoom

SCALES = (0.5, 2.0)  # of `crop`, by default
_LARGEST_SHARE = 0.75  # of one class in the labelled pixels of a crop
_CROP_TRIES = 10
_LONGEST = 4  # the maximum of the long side over the short side in `crop`: mmsegmentation's (2048, 512)

JITTER_SCALES = (0.1, 2.0)  # of `lsj`, by default
_JITTER_SIDE = 1024


def build_recipe(
    name: str,
    image_size: int | Size | None,
    short_side: int | None = None,
    scales: tuple[float, float] | None = None,
    rand_augment: int | None = None,
    random_erasing: float | None = None,
) -> Recipe:
    """Builds the recipe that `data.recipe` and its keys describe.

    fixed, and resize, which is fixed without augmentation: an int is the long side; [h, w] bounds the image; None keeps
    its size.
    detr: [short, long] are the short side and the maximum of the long side in evaluation; training's scales are
    proportional; an int is the short side; None is the paper's [800, 1333].
    crop: the training crop, [h, w] or its side. Only crop and lsj take short_side.
    lsj: the canvas, [h, w] or its side; None is the paper's 1024.
    resized_crop: the crop's size, [h, w] or its side. Only it takes rand_augment and random_erasing.
    """
    if name in ("crop", "resized_crop"):
        if image_size is None:
            raise ConfigError(
                f"data.image_size is missing: the recipe {name!r} needs the crop's side or [height, width]."
            )
        crop = (image_size, image_size) if isinstance(image_size, int) else image_size
        if name == "resized_crop":
            from densevit.data.transforms.resized_crop import AREAS, ResizedCrop  # late: it imports torchvision

            return ResizedCrop(crop, AREAS if scales is None else scales, rand_augment, random_erasing)
        return Crop(crop, short_side, SCALES if scales is None else scales)
    if name == "lsj":
        side = _JITTER_SIDE if image_size is None else image_size
        canvas = (side, side) if isinstance(side, int) else side
        return LargeScaleJitter(canvas, short_side, JITTER_SCALES if scales is None else scales)
    if name in ("fixed", "resize"):
        return Fixed(image_size)
    if name == "detr":
        if image_size is None:
            image_size = (DETR_SHORT, DETR_LONG)
        if isinstance(image_size, int):
            image_size = (image_size, round(image_size * DETR_LONG / DETR_SHORT))
        short, longest = image_size
        if short > longest:
            raise ConfigError(
                f"data.image_size: the recipe 'detr' takes [short side, maximum long side], not {[*image_size]}."
            )
        return Detr(short, longest)
    raise ConfigError(f"data.recipe: there is no recipe {name!r}. Known: crop, detr, fixed, lsj, resize, resized_crop.")


@dataclass(frozen=True)
class Fixed(Recipe):
    """One size for all images: the long side, or bounds (h, w). Training zooms half of the images by up to 1.25.

    Zooming in crops; zooming out makes the image smaller, with more padding in the batch.
    """

    target: int | Size | None
    recoloring: Recoloring = "gentle"

    @property
    def canvas(self) -> Size | None:  # type: ignore[override]  # read-only
        """(h, w) that images are padded to, if two numbers were given."""
        return self.target if isinstance(self.target, tuple) else None

    @property
    def evaluation_canvas(self) -> Size | None:  # type: ignore[override]
        """(h, w) that images are padded to in evaluation: the training's canvas."""
        return self.canvas

    def evaluation_size(self, height: int, width: int) -> Size:
        """Returns the largest size with the image's aspect ratio that fits."""
        if self.target is None:
            return height, width
        bound = (self.target, self.target) if isinstance(self.target, int) else self.target
        return (
            maximum(1, minimum(bound[0], rounded_ratio(height * bound[1], width))),
            maximum(1, minimum(bound[1], rounded_ratio(width * bound[0], height))),
        )

    def evaluation_bounds(self) -> Mapping[str, float]:
        """Returns the bound of the long side, or of height and width."""
        if self.target is None:
            return {}
        return _fitting(self.target) if isinstance(self.target, tuple) else {"long_side": self.target}

    def training_frame(
        self, height: int, width: int, rng: np.random.Generator, semantic: np.ndarray | None = None
    ) -> Frame:
        """Returns the evaluation's frame, or a zoomed one."""
        size = self.evaluation_size(height, width)
        zoom = _ZOOM ** rng.uniform(-1, 1) if rng.random() < _ZOOMED else 1.0
        if zoom <= 1:
            return Frame((0, 0, height, width), (max(1, round(size[0] * zoom)), max(1, round(size[1] * zoom))))
        h, w = math.ceil(height / zoom), math.ceil(width / zoom)
        top, left = int(rng.integers(height - h + 1)), int(rng.integers(width - w + 1))
        return Frame((top, left, top + h, left + w), size)


@dataclass(frozen=True)
class Detr(Recipe):
    """The recipe of DETR (Carion et al. 2020, appendix A.4): a random short side; in half of the images, of a crop.

    The paper resizes, crops and resizes again. Here the crop is computed on the original image, resampled once.
    """

    short: int
    longest: int
    recoloring: Recoloring = "none"
    canvas: Size | None = None
    evaluation_canvas: Size | None = None

    def evaluation_size(self, height: int, width: int) -> Size:
        """Returns the size at the largest of the recipe's scales."""
        return resize_short_side(height, width, self.short, self.longest)

    def evaluation_bounds(self) -> Mapping[str, float]:
        """Returns the bounds of the short and the long side."""
        return {"short_side": self.short, "long_side": self.longest}

    def training_frame(
        self, height: int, width: int, rng: np.random.Generator, semantic: np.ndarray | None = None
    ) -> Frame:
        """Returns a random frame of one of the paper's two branches: resize, or resize, crop and resize."""
        whole = rng.random() < 0.5
        short = self._scaled(int(rng.choice(_DETR_SCALES)))
        if whole:
            return Frame((0, 0, height, width), resize_short_side(height, width, short, self.longest))
        middle = resize_short_side(height, width, self._scaled(int(rng.choice(_DETR_CROP_SCALES))))
        least, most = map(self._scaled, _DETR_CROP)
        h, w = (int(rng.integers(min(least, side), min(most, side) + 1)) for side in middle)
        top, left = int(rng.integers(middle[0] - h + 1)), int(rng.integers(middle[1] - w + 1))
        down, right = height / middle[0], width / middle[1]
        first, begin = min(round(top * down), height - 1), min(round(left * right), width - 1)
        last, end = max(round((top + h) * down), first + 1), max(round((left + w) * right), begin + 1)
        return Frame((first, begin, last, end), resize_short_side(h, w, short, self.longest))

    def _scaled(self, side: int) -> int:
        return round(side * self.short / DETR_SHORT)


@dataclass(frozen=True)
class Crop(Recipe):
    """The usual recipe for semantic segmentation, as in mmsegmentation: a random scale and a crop of mixed classes.

    canvas: (h, w) of the crop. short_side: the short side in evaluation, to which scales are relative; None keeps the
    image's. scales: minimum and maximum.

    mmsegmentation resizes and crops. Here the crop is computed on the original image, resampled once.
    """

    canvas: Size
    short_side: int | None = None
    scales: tuple[float, float] = SCALES
    evaluation_canvas: Size | None = None
    recoloring: Recoloring = "photometric"

    def evaluation_size(self, height: int, width: int) -> Size:
        """Returns the size with this short side, or smaller if the long side would exceed four times it.

        Rounded half up as in mmcv, whose floating-point scale may round an exact half down.
        """
        if self.short_side is None:
            return height, width
        low, high = minimum(height, width), maximum(height, width)
        scales = ((self.short_side, low), (_LONGEST * self.short_side, high))
        return _scaled_by_least(height, scales), _scaled_by_least(width, scales)

    def evaluation_bounds(self) -> Mapping[str, float]:
        """Returns the bounds of the short and the long side; empty without `short_side`."""
        if self.short_side is None:
            return {}
        return {"short_side": self.short_side, "long_side": _LONGEST * self.short_side}

    def training_frame(
        self, height: int, width: int, rng: np.random.Generator, semantic: np.ndarray | None = None
    ) -> Frame:
        """Returns a random scale and crop: the first of ten crops with mixed classes in `semantic`, (height, width)
        uint8, or the last. An axis on which the scaled image is smaller than the crop is padded instead of cropped.
        """
        scale = self._evaluation_scale(height, width) * rng.uniform(*self.scales)
        (h, out_h), (w, out_w) = (
            _cropped_side(side, scale, crop) for side, crop in zip((height, width), self.canvas, strict=True)
        )
        for _ in range(_CROP_TRIES):
            top, left = int(rng.integers(height - h + 1)), int(rng.integers(width - w + 1))
            whole = (h, w) == (height, width)
            if whole or semantic is None or is_mixed(semantic[top : top + h, left : left + w]):
                break
        return Frame((top, left, top + h, left + w), (out_h, out_w))

    def _evaluation_scale(self, height: int, width: int) -> float:
        if self.short_side is None:
            return 1.0
        return min(self.short_side / min(height, width), _LONGEST * self.short_side / max(height, width))


@dataclass(frozen=True)
class LargeScaleJitter(Recipe):
    """Large-scale jitter (Ghiasi et al. 2021, section 3), as detectron2's ResizeScale and FixedSizeCrop.

    In training, an image is resized to fit into the canvas times a random factor of `scales`, with its aspect ratio
    kept, then cropped at random or padded to the canvas.

    canvas: (h, w). short_side: the short side in evaluation, with a long side of at most 1333 / 800 of it, as in
    detectron2; None fits images into the canvas. scales: minimum and maximum.

    detectron2 resizes and crops. Here the crop is computed on the original image, to whole pixels, resampled once.
    """

    canvas: Size
    short_side: int | None = None
    scales: tuple[float, float] = JITTER_SCALES
    evaluation_canvas: Size | None = None
    recoloring: Recoloring = "none"

    def evaluation_size(self, height: int, width: int) -> Size:
        """Returns the size with this short side, or smaller if the long side would exceed its bound; or the largest
        size that fits into the canvas."""
        if self.short_side is None:
            scales = ((self.canvas[0], height), (self.canvas[1], width))
        else:
            low, high = minimum(height, width), maximum(height, width)
            scales = ((self.short_side, low), (self.short_side * DETR_LONG, DETR_SHORT * high))
        return _scaled_by_least(height, scales), _scaled_by_least(width, scales)

    def evaluation_bounds(self) -> Mapping[str, float]:
        """Returns the bounds of the short and the long side, or the canvas."""
        if self.short_side is None:
            return _fitting(self.canvas)
        return {"short_side": self.short_side, "long_side": self.short_side * DETR_LONG / DETR_SHORT}

    def training_frame(
        self, height: int, width: int, rng: np.random.Generator, semantic: np.ndarray | None = None
    ) -> Frame:
        """Returns a random scale and crop, whose offset is the same share of the excess on both axes."""
        scale = self._fitting_scale(height, width, rng.uniform(*self.scales))
        share = rng.random()
        (top, bottom, h), (left, right, w) = (
            _jittered_side(side, scale, crop, share) for side, crop in zip((height, width), self.canvas, strict=True)
        )
        return Frame((top, left, bottom, right), (h, w))

    def _fitting_scale(self, height: int, width: int, factor: float) -> float:
        """The scale at which an image fits into the canvas times a factor."""
        return min(self.canvas[0] * factor / height, self.canvas[1] * factor / width)


def _fitting(canvas: Size) -> dict[str, float]:
    return {"height": canvas[0], "width": canvas[1]}


def _jittered_side(side: int, scale: float, crop: int, share: float) -> tuple[int, int, int]:
    """First and last pixel of the window along one side, and the window's length once it is resized."""
    scaled = max(1, round(side * scale))  # halves to even, as numpy's in detectron2
    length = min(scaled, crop)
    offset = round((scaled - length) * share)
    first = min(round(offset * side / scaled), side - 1)
    return first, max(round((offset + length) * side / scaled), first + 1), length


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
    """Length of the crop along one side before and after resizing."""
    scaled = _scaled_side(side, scale)
    if scaled <= crop:
        return side, scaled
    return min(side, max(1, round(crop / scale))), crop


def _scaled_by_least(side: int, scales: Sequence[tuple[int, int]]) -> int:
    """Returns a side times the smallest of these fractions (numerator, denominator), rounded half up."""
    least = functools.reduce(minimum, ((2 * side * top + bottom) // (2 * bottom) for top, bottom in scales))
    return maximum(1, least)
