"""Random augmentation for training. Geometry follows the target types; colours are albumentations'."""

import math
import os
import random
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np

from densevit.data.transforms.recipes import Recoloring
from densevit.data.transforms.resizing import (
    Types,
    Values,
    finished,
    image_size,
    resize_image,
    to_pixels,
    usable_values,
    visible_values,
)
from densevit.interfaces import Recipe, Sample, Size
from densevit.targets.types import TargetTypes

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # else the import looks for updates over the network

import albumentations as A


class Augmentation:
    """Flips, rotates, crops, resizes and recolours a sample as a recipe says.

    rotation: images are rotated by up to so many degrees in either direction before the crop.
    """

    def __init__(self, recipe: Recipe, rotation: float = 0.0) -> None:
        self.recipe, self.rotation = recipe, rotation
        self._recolor = recolored(recipe.recoloring)

    def __call__(self, sample: Sample, rng: np.random.Generator, types: Types | None = None) -> Sample:
        """Returns the augmented sample: targets on the new grid, without crowds and cropped objects, with `size` and
        `original_size`.

        An object is kept where part of its box is inside; with masks, where a pixel of its mask is.
        types: of the target keys; by default the registered ones.
        """
        types = TargetTypes() if types is None else types
        pixels, size = to_pixels(sample["image"]), image_size(sample)
        values = usable_values(sample, types)
        coins = random.Random(int(rng.integers(2**32)))
        coins.random()  # drawn by albumentations, which earlier versions flipped with: seeded runs stay the same
        if coins.random() < 0.5:
            pixels = cv2.flip(pixels, 1)
            values = {key: types[key].hflip(value, size) for key, value in values.items()}
        if self.rotation:
            matrix = rotation_matrix(size, float(rng.uniform(-self.rotation, self.rotation)))
            pixels = cv2.warpAffine(pixels, matrix, size[::-1], flags=cv2.INTER_LINEAR, borderValue=0)
            values = {key: types[key].rotate(value, matrix, size) for key, value in values.items()}
        pixels, values = self._reframed(pixels, values, types, rng)
        for step in self._recolor:
            step.set_random_state(rng, coins)
            pixels = step(image=pixels)["image"]
        return finished(pixels, sample, values, size, self.recipe.canvas)

    def _reframed(
        self, pixels: np.ndarray, values: Values, types: Types, rng: np.random.Generator
    ) -> tuple[np.ndarray, Values]:
        """Crops the recipe's random window and resizes it, in one resampling."""
        size = (pixels.shape[0], pixels.shape[1])
        class_maps = (types[key].class_map(value) for key, value in values.items())
        class_map = next((found for found in class_maps if found is not None), None)
        window, new_size = self.recipe.training_frame(*size, rng, class_map)
        top, left, bottom, right = window
        cropped = (bottom - top, right - left)
        usual = math.prod(self.recipe.evaluation_size(*size)) / math.prod(size)
        zoom = math.sqrt(math.prod(new_size) / math.prod(cropped) / usual)
        for key, value in values.items():
            value = types[key].crop(value, window, size)
            values[key] = types[key].resize(value, cropped, new_size, zoom)
        return resize_image(pixels[top:bottom, left:right], new_size), visible_values(values, types, new_size)


def rotation_matrix(size: Size, angle: float) -> np.ndarray:
    """(2, 3): rotates about the image's centre, counterclockwise by an angle in degrees; a pixel's centre is at 0."""
    return np.asarray(cv2.getRotationMatrix2D(((size[1] - 1) / 2, (size[0] - 1) / 2), angle, 1.0))


def recolored(recoloring: Recoloring | Sequence[Any]) -> list[Any]:
    """The given transforms of albumentations, or built-in changes of brightness, contrast and colour, each in half of
    the images.

    photometric: SSD's (Liu et al. 2016) as mmsegmentation has it, with contrast either before or after the colours:
    brightness by up to 32 of 255, contrast and saturation by 0.5 to 1.5, hue by up to 18 of OpenCV's 180. Saturation is
    torchvision's, a blend with grey, where mmsegmentation multiplies that of HSV; numbers are rounded after each step.
    """
    if not isinstance(recoloring, str):
        return list(recoloring)
    if recoloring == "none":
        return []
    if recoloring == "gentle":
        return [A.RandomBrightnessContrast(brightness_limit=0.2, contrast_limit=0.2, p=0.5)]
    plain = {"brightness": 0, "contrast": 0, "saturation": 0, "hue": 0}
    brightness = A.RandomBrightnessContrast(brightness_limit=32 / 255, contrast_limit=0, p=0.5)
    contrast = A.RandomBrightnessContrast(brightness_limit=0, contrast_limit=0.5, p=0.5)
    saturation = A.ColorJitter(**plain | {"saturation": (0.5, 1.5)}, p=0.5)
    hue = A.ColorJitter(**plain | {"hue": 18 / 180}, p=0.5)
    orders = ([brightness, contrast, saturation, hue], [brightness, saturation, hue, contrast])
    return [A.OneOf([A.Sequential(order) for order in orders], p=1)]
