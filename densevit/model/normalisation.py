"""Normalisation of images by a backbone's mean and standard deviation."""

import torch
from torch import Tensor

from densevit.channels import Channels
from densevit.interfaces import IMAGENET_MEAN, IMAGENET_STD
from densevit.losses.distributed import to_device


def normalised(
    images: Tensor,
    padding_mask: Tensor,
    channels: Channels,
    range_low: Tensor,
    range_high: Tensor,
    mean: Tensor,
    std: Tensor,
    black_padding: bool = False,
) -> Tensor:
    """Normalises images (B, C, H, W) by mean and std, both (C, 1, 1) in units of the images. Padding (B, H, W) becomes
    exactly 0, the mean colour, or with `black_padding` the normalised `range_low`.

    For channels other than 8-bit RGB, clips values to range_low ... range_high and sets NaN to 0, the mean. Computes in
    float32 at least.
    """
    pixels = images.to(mean.dtype)
    if not channels.is_rgb:
        pixels = pixels.clamp(range_low, range_high)
    pixels = (pixels - mean) / std
    if channels.dtype == "float32":
        pixels = pixels.nan_to_num(nan=0.0)
    if black_padding:
        return torch.where(padding_mask[:, None], (range_low - mean) / std, pixels)
    return pixels.masked_fill_(padding_mask[:, None], 0.0)


def imagenet_normalised(
    images: Tensor, padding_mask: Tensor, channels: Channels, range_low: Tensor, range_high: Tensor
) -> Tensor:
    """`normalised` by ImageNet's mean and standard deviation, for channels other than RGB by their means."""
    span = range_high - range_low
    mean, std = (
        span * to_device(torch.tensor(channels.per_channel(values))[:, None, None], span.device)
        for values in (IMAGENET_MEAN, IMAGENET_STD)
    )
    return normalised(images, padding_mask, channels, range_low, range_high, range_low + mean, std)
