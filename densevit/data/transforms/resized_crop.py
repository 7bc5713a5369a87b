"""The transforms `resized_crop`, of image classification: random resized crops, RandAugment and random erasing."""

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Annotated, Any

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from densevit.config.values import Float, Int, Scales
from densevit.data.transforms.crop import crop_size
from densevit.data.transforms.exact_sides import resize_short_side
from densevit.interfaces import CropAndSize, Size, Transforms

_RATIOS = (3 / 4, 4 / 3)  # width / height of a crop
_TRIES = 10
_MEAN = [124, 116, 104]  # ImageNet's mean colour, which erased pixels get


class ResizedCrop(Transforms):
    """Crops of random area and aspect ratio, resized to one size (Inception, Szegedy et al. 2015).

    Computes what torchvision's `RandomResizedCrop` computes. Evaluation resizes the short side to the crop's shorter
    side, without a crop.

    image_size: (h, w) of the crop, or its side.
    areas: the smallest and the largest area of a crop, as shares of the image's.
    rand_augment: the magnitude of RandAugment (Cubuk et al. 2020), 0 to 30, with two operations per image; None: none.
        It moves pixels, so data whose labels have places in the image are refused.
    random_erasing: the probability of erasing a rectangle (Zhong et al. 2020), which gets ImageNet's mean colour.
    """

    def __init__(
        self,
        image_size: int | Size | None,
        areas: Scales = (0.08, 1.0),
        rand_augment: Annotated[Int, Field(ge=0, le=30)] | None = None,
        random_erasing: Annotated[Float, Field(gt=0, le=1)] | None = None,
    ) -> None:
        self.canvas: Size = crop_size(image_size, "resized_crop")
        self.areas = areas
        self.color_augmentation: list[SeededTransform] = []
        if rand_augment is not None or random_erasing is not None:
            from torchvision.transforms import v2
        if rand_augment is not None:
            moves = "data.transforms.rand_augment shears, translates and rotates images"
            self.color_augmentation.append(SeededTransform(v2.RandAugment(num_ops=2, magnitude=rand_augment), moves))
        if random_erasing is not None:
            self.color_augmentation.append(SeededTransform(v2.RandomErasing(p=random_erasing, value=_MEAN)))

    def evaluation_size(self, height: int, width: int) -> Size:
        """Returns the size whose short side is the shorter side of the crop."""
        return resize_short_side(height, width, min(self.canvas))

    def evaluation_bounds(self) -> Mapping[str, float]:
        """Returns the bound of the short side."""
        return {"short_side": min(self.canvas)}

    def training_crop(
        self, height: int, width: int, rng: np.random.Generator, semantic: np.ndarray | None = None
    ) -> CropAndSize:
        """Returns the first of ten random crops that fits into the image, or else the largest centred crop of an
        allowed aspect ratio."""
        for _ in range(_TRIES):
            area = height * width * rng.uniform(*self.areas)
            ratio = math.exp(rng.uniform(math.log(_RATIOS[0]), math.log(_RATIOS[1])))
            h, w = round(math.sqrt(area / ratio)), round(math.sqrt(area * ratio))
            if 0 < h <= height and 0 < w <= width:
                top, left = int(rng.integers(height - h + 1)), int(rng.integers(width - w + 1))
                return CropAndSize((top, left, top + h, left + w), self.canvas)
        h = min(height, max(1, round(width / _RATIOS[0])))
        w = min(width, max(1, round(height * _RATIOS[1])))
        top, left = (height - h) // 2, (width - w) // 2
        return CropAndSize((top, left, top + h, left + w), self.canvas)


class SeededTransform:
    """Adapts a torchvision transform of uint8 images to albumentations' interface, seeded by the sample's generator.

    moves_pixels: the option and how it moves pixels, for messages; None if it moves none.
    """

    def __init__(self, transform: Callable[[Tensor], Tensor], moves_pixels: str | None = None) -> None:
        self.transform, self.moves_pixels, self._seed = transform, moves_pixels, 0

    def set_random_state(self, rng: np.random.Generator, _: Any) -> None:
        self._seed = int(rng.integers(2**63))

    def __call__(self, image: np.ndarray) -> dict[str, np.ndarray]:
        """image: (H, W, 3) uint8."""
        planes = torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))
        with seeded(self._seed):
            changed = self.transform(planes)
        return {"image": np.ascontiguousarray(changed.numpy().transpose(1, 2, 0))}


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seeds torch's CPU generator, which torchvision's transforms use, and restores its state afterwards."""
    with torch.random.fork_rng(devices=()):
        torch.default_generator.manual_seed(seed)
        yield
