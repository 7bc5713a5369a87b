"""Random colours of views, for methods that compare two views of an image."""

from collections.abc import Callable

import numpy as np
from torch import Tensor
from torchvision.transforms.v2 import functional as F


def strong_colours(image: Tensor, generator: np.random.Generator) -> Tensor:
    """Changes colours as UniMatch's strong views (Yang et al. 2023), without CutMix: with probability 0.8 brightness,
    contrast and saturation by a factor in 0.5 ... 1.5 and hue by up to a quarter turn, with 0.2 to grey, with 0.5
    blurred with a standard deviation of 0.1 to 2 pixels.

    image: (3, H, W) uint8. Returns the same shape and type.
    """
    if generator.random() < 0.8:
        image = color_jitter(image, generator, 0.5, 0.5, 0.5, 0.25)
    if generator.random() < 0.2:
        image = F.rgb_to_grayscale(image, num_output_channels=3)
    if generator.random() < 0.5:
        image = gaussian_blur(image, generator.uniform(0.1, 2.0))
    return image


def self_supervised_colours(image: Tensor, generator: np.random.Generator, blur: float, solarize: float) -> Tensor:
    """Changes colours as DINO and MoCo v3 do (BYOL, Grill et al. 2020, with other factors): with probability 0.8
    brightness and contrast by a factor in 0.6 ... 1.4, saturation in 0.8 ... 1.2 and hue by up to a tenth of a turn,
    with 0.2 to grey, then blurred (0.1 to 2 pixels) and solarized with these probabilities.

    image: (3, H, W) uint8. Returns the same shape and type.
    """
    if generator.random() < 0.8:
        image = color_jitter(image, generator, 0.4, 0.4, 0.2, 0.1)
    if generator.random() < 0.2:
        image = F.rgb_to_grayscale(image, num_output_channels=3)
    if generator.random() < blur:
        image = gaussian_blur(image, generator.uniform(0.1, 2.0))
    return F.solarize(image, 128) if generator.random() < solarize else image


def color_jitter(
    image: Tensor, generator: np.random.Generator, brightness: float, contrast: float, saturation: float, hue: float
) -> Tensor:
    """torchvision's ColorJitter with a generator that is passed in: factors in 1 - x ... 1 + x, a hue shift in -x ... x
    of a turn, in random order."""
    changes: list[tuple[Callable[..., Tensor], float]] = [
        (F.adjust_brightness, generator.uniform(1 - brightness, 1 + brightness)),
        (F.adjust_contrast, generator.uniform(1 - contrast, 1 + contrast)),
        (F.adjust_saturation, generator.uniform(1 - saturation, 1 + saturation)),
        (F.adjust_hue, generator.uniform(-hue, hue)),
    ]
    for index in generator.permutation(len(changes)):
        change, value = changes[index]
        image = change(image, value)
    return image


def gaussian_blur(image: Tensor, sigma: float) -> Tensor:
    """Blurs an image (3, H, W) by a Gaussian with this standard deviation in pixels, cut off at three of them."""
    smallest = min(image.shape[-2:])
    radius = min(int(3 * sigma + 0.5), smallest - 1)  # the borders are mirrored
    return F.gaussian_blur(image, [2 * radius + 1] * 2, [sigma] * 2) if radius else image
