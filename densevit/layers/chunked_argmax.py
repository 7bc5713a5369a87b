"""Argmax over classes at full image resolution, in chunks of classes to bound memory."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from densevit.layers.tracing import is_exporting

Size = tuple[int, int]

_CHUNK_PIXELS = 2**25  # of upsampled logits: 128 MB in fp32


def chunked_argmax(logits: Tensor, upsample: Callable[[Tensor, Size], Tensor], size: Size, original: Size) -> Tensor:
    """Class index of each pixel, (K, h, w) -> (H, W) uint8, with (H, W) = `original`.

    upsample: maps a chunk of logits (1, k, h, w) to the size of the network input, (1, k, *size). The result is
    resized bilinearly to `original` before the argmax.
    """
    step = len(logits)
    if not is_exporting():  # the number of chunks would be a constant of the file
        step = max(1, _CHUNK_PIXELS // max(size[0] * size[1], original[0] * original[1]))
    best: Tensor | None = None
    for first in range(0, len(logits), step):
        x = upsample(logits[None, first : first + step], size)
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
