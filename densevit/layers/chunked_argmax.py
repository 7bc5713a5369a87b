"""The likeliest class of each pixel, without all classes' maps of a large picture in memory at once."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

Size = tuple[int, int]

_PIXELS_AT_ONCE = 2**25  # of classes' maps: 128 MB


def likeliest(logits: Tensor, on_pixels: Callable[[Tensor, Size], Tensor], size: Size, original: Size) -> Tensor:
    """(K, h, w) -> (H, W) uint8, class indices in original pixels.

    on_pixels: brings some of the maps, (1, k, h, w), to the picture's grid, (1, k, *size). From there they go on to
    `original` pixels, bilinearly, and only then is a class chosen.
    """
    step = max(1, _PIXELS_AT_ONCE // max(size[0] * size[1], original[0] * original[1]))
    best: Tensor | None = None
    for first in range(0, len(logits), step):
        x = on_pixels(logits[None, first : first + step], size)
        if size != original:
            x = F.interpolate(x, size=original, mode="bilinear", align_corners=False)
        value, index = x[0].max(0)
        index = (index + first).to(torch.uint8)
        if best is None:
            best, label = value, index
        else:
            label = torch.where(value > best, index, label)
            best = torch.maximum(best, value)
    return label
