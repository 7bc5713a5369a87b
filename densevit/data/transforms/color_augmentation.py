"""Random colour changes of training images: the built-in ones, and a check whether a user's transform moves pixels."""

import os
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from densevit.errors import DataError

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # else the import looks for updates over the network

ColorAugmentation = Literal["none", "gentle", "photometric"]


def color_transforms(color_augmentation: ColorAugmentation | Sequence[Any]) -> list[Any]:
    """Returns a list of albumentations transforms unchanged, or the built-in changes of brightness, contrast and
    colour, each with probability 0.5.

    photometric: SSD's photometric distortion (Liu et al. 2016) as in mmsegmentation, with contrast before or after the
    colours: brightness by up to 32 of 255, contrast and saturation by 0.5 to 1.5, hue by up to 18 of OpenCV's 180.
    Saturation is a blend with grey, as in torchvision; mmsegmentation scales HSV's saturation. Values are rounded after
    each step.
    """
    if not isinstance(color_augmentation, str):
        return list(color_augmentation)
    if color_augmentation == "none":
        return []
    import albumentations as A

    if color_augmentation == "gentle":
        return [A.RandomBrightnessContrast(brightness_limit=0.2, contrast_limit=0.2, p=0.5)]
    plain = {"brightness": 0, "contrast": 0, "saturation": 0, "hue": 0}
    brightness = A.RandomBrightnessContrast(brightness_limit=32 / 255, contrast_limit=0, p=0.5)
    contrast = A.RandomBrightnessContrast(brightness_limit=0, contrast_limit=0.5, p=0.5)
    saturation = A.ColorJitter(**plain | {"saturation": (0.5, 1.5)}, p=0.5)
    hue = A.ColorJitter(**plain | {"hue": 18 / 180}, p=0.5)
    orders = ([brightness, contrast, saturation, hue], [brightness, saturation, hue, contrast])
    return [A.OneOf([A.Sequential(order) for order in orders], p=1)]


def apply_color_transform(step: Any, pixels: np.ndarray) -> np.ndarray:
    """Applies a colour transform. Raises DataError unless it returns uint8 of the same shape."""
    changed: np.ndarray = step(image=pixels)["image"]
    if changed.dtype != np.uint8 or changed.shape != pixels.shape:
        raise DataError(
            f"The colour augmentation {type(step).__name__} returns {changed.dtype} {changed.shape} for uint8 "
            f"{pixels.shape}; the same type and shape are expected. Fix: leave it out; the model normalises images, "
            "and training_crop of the transforms crops and resizes them."
        )
    return changed


def reason_it_moves_pixels(step: Any) -> str | None:
    """Returns why a colour transform may move pixels. None if its attribute `moves_pixels` is false, and for
    albumentations' image-only transforms. For a composition, returns the reason of the first part that may.
    """
    import albumentations as A

    if isinstance(step, A.BaseCompose):
        return next(filter(None, map(reason_it_moves_pixels, step.transforms)), None)
    if hasattr(step, "moves_pixels"):
        return str(step.moves_pixels) if step.moves_pixels else None
    if isinstance(step, A.ImageOnlyTransform):
        return None
    return f"data.transforms: the colour augmentation {type(step).__name__} may move pixels"
