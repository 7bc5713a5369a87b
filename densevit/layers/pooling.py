"""Average pooling over the cells of an image, without padding."""

import torch
from torch import Tensor

from densevit.layers.positions import mask_on_grid


def masked_mean(x: Tensor, padding_mask: Tensor) -> Tensor:
    """Means of a feature map over the cells of each image. x: (B, C, h, w). padding_mask: (B, H, W), True = padding.

    The sums are computed in float32 at least: the sum of 32 x 32 cells of value 100 exceeds fp16's largest number.
    Returns (B, C).
    """
    inside = ~mask_on_grid(padding_mask, (x.shape[-2], x.shape[-1]))[:, None]  # (B, 1, h, w)
    dtype = torch.promote_types(x.dtype, torch.float32)
    total = (x * inside).sum((2, 3), dtype=dtype)
    return (total / inside.sum((2, 3)).clamp(min=1)).to(x.dtype)
