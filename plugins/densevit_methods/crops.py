"""Random crops as views, for methods that compare views of an image."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from torch import Tensor
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as F

from densevit.interfaces import Sample
from densevit_methods.colours import self_supervised_colours


def random_resized_crop(image: Tensor, generator: np.random.Generator, size: int, scale: tuple[float, float]) -> Tensor:
    """A crop of random area and aspect ratio, resized to a square (Szegedy et al. 2015, section 6), flipped with
    probability 0.5. As torchvision's RandomResizedCrop with a generator that is passed in.

    image: (3, H, W) uint8. scale: share of the area; aspect ratios are 3/4 ... 4/3. Returns (3, size, size) uint8.
    """
    height, width = image.shape[1:]
    for _ in range(10):
        area = height * width * generator.uniform(*scale)
        ratio = math.exp(generator.uniform(math.log(3 / 4), math.log(4 / 3)))
        h, w = round(math.sqrt(area / ratio)), round(math.sqrt(area * ratio))
        if 0 < h <= height and 0 < w <= width:
            top, left = int(generator.integers(height - h + 1)), int(generator.integers(width - w + 1))
            break
    else:  # the largest central crop with a possible aspect ratio
        h, w = min(height, round(width * 4 / 3)), min(width, round(height * 4 / 3))
        top, left = (height - h) // 2, (width - w) // 2
    image = F.resized_crop(image, top, left, h, w, [size, size], InterpolationMode.BICUBIC, antialias=True)
    return F.horizontal_flip(image) if generator.random() < 0.5 else image


Crop = tuple[int, tuple[float, float], float, float]
"""A random crop: its side, the range of its share of the area, and the probabilities of blur and solarization."""


def random_views(crops: Sequence[Crop]) -> Callable[[Sample, np.random.Generator, Any], list[Sample]]:
    """A transform that makes a view of an image for each crop."""

    def views(sample: Sample, generator: np.random.Generator, types: Any) -> list[Sample]:
        made = []
        for size, scale, blur, solarize in crops:
            crop = random_resized_crop(sample["image"], generator, size, scale)
            made.append(as_view(self_supervised_colours(crop, generator, blur, solarize), sample))
        return made

    return views


def as_view(image: Tensor, sample: Sample) -> Sample:
    """A crop of a sample's image as a view, without labels."""
    targets = sample["targets"]
    original_size = targets.get("original_size", tuple(sample["image"].shape[1:]))
    size = tuple(image.shape[1:])
    return {"image": image, "targets": {"image_id": targets["image_id"], "original_size": original_size, "size": size}}


def check_scale(option: str, scale: tuple[float, float]) -> None:
    """Raises ValueError if a range of areas is not in 0 ... 1."""
    if not 0 < scale[0] <= scale[1] <= 1:
        raise ValueError(
            f"{option} is {list(scale)}; two ascending shares of the area, above 0 and up to 1, are needed."
        )
