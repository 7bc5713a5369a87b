"""Resizing of images inside an exported file, as `predict` resizes them."""

import numpy as np
import torch
from torch import Tensor, nn

from densevit.channels import RGB, Channels
from densevit.data.transforms.sample_resizing import resize_image
from densevit.errors import DensevitError
from densevit.interfaces import Transforms
from densevit.layers.missing_pixels import valid_mean

_BITS = 16  # at most, per weight: sums of 255 times such weights are exact in float32
_LARGEST_WEIGHT = 2**16 - 1  # twice the largest weight before rounding: the kernel has 16 bits
_TOLERANCE = 2e-3  # of a channel's largest absolute value, in float32: OpenCV may round positions to float32
_VALID = 0.1  # weight of valid pixels, below which rounding dominates


class Resizing(nn.Module):
    """Resizes images bilinearly, with antialiasing where they shrink, to the evaluation size.

    For uint8, follows Pillow's and torch's kernel: a horizontal and a vertical pass with integer weights, each rounded
    to uint8. The passes are products of integer matrices, exact in float32 in any order of summation, so all runtimes
    compute the same pixels. Other types use float32 weights; uint16 is rounded once. Integers differ from `predict`'s
    resizing by at most one level, float32 by the rounding of weights: more where missing pixels have almost all the
    weight, and there a pixel may be missing in one of the two results.
    """

    def __init__(self, transforms: Transforms) -> None:
        super().__init__()
        self.transforms = transforms

    def forward(self, images: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, h, w) of the same type. Batch, H and W may be `torch.export` symbols."""
        H, W = images.shape[-2:]
        h, w = self.transforms.evaluation_size(H, W)
        if images.dtype != torch.uint8:
            shrinks = torch.full((1, 1), H, device=images.device) > h
            shrinks |= torch.full((1, 1), W, device=images.device) > w
            return _resized(images, _float_weights(H, h, shrinks), _float_weights(W, w, shrinks))
        weights, unit = _weights(W, w, images.device)
        rows = _to_levels(images.float() @ weights.T / unit)  # (B, C, H, w)
        weights, unit = _weights(H, h, images.device)
        return _to_levels(weights @ rows / unit).to(torch.uint8)


def check_resizing(resizing: Resizing, images: np.ndarray, channels: Channels = RGB) -> None:
    """Raises DensevitError unless images (1, C, H, W) are resized as in `predict`, within the tolerance."""
    valid = (~np.isnan(images)).astype(images.dtype)
    actual, shares = (resizing(torch.from_numpy(x))[0].permute(1, 2, 0).numpy().astype(float) for x in (images, valid))
    H, W = images.shape[2:]
    expected = resize_image(
        np.ascontiguousarray(images[0].transpose(1, 2, 0)), resizing.transforms.evaluation_size(H, W)
    )
    tolerance = _TOLERANCE * np.abs(channels.range).max(1) if channels.dtype == "float32" else 1  # (C,) or levels
    if actual.shape != expected.shape or ((shares > _VALID) & ~np.isclose(actual, expected, 0, tolerance)).any():
        raise DensevitError(
            f"The resizing of {type(resizing.transforms).__name__} on {H}x{W} pixels differs from predict's."
        )


def _resized(images: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Resizes uint16 or float32 images. rows: weights (h, H). columns: (w, W)."""
    if images.dtype == torch.uint16:
        return _to_levels(rows @ (images.float() @ columns.T), 65535).to(torch.uint16)
    return valid_mean(images, lambda x: rows @ (x @ columns.T))


def _weights(length: int, resized: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Integer weights (resized, length) float32 of a triangle filter, and the integer that represents 1.

    Computed from integers only, so that all runtimes round a weight near a half in the same direction; browsers and
    accelerators have no float64.
    """
    sides = torch.full((1, 1), length, device=device), torch.full((1, 1), resized, device=device)
    centers = (2 * torch.arange(resized, device=device)[:, None] + 1) * sides[0]
    offsets = (2 * torch.arange(length, device=device) + 1) * sides[1] - centers  # in 1 / (2 * resized) pixels
    heights = (2 * torch.maximum(*sides) - offsets.abs()).clamp(min=0)
    total = heights.sum(1, keepdim=True)
    units = 2 ** torch.arange(_BITS + 1, device=device)
    fits = (2 * heights.amax(1)[:, None] * units < _LARGEST_WEIGHT * total).all(0)
    unit = torch.where(fits, units, 1).amax(0)
    return ((2 * heights * unit + total) // (2 * total)).float(), unit.float()


def _float_weights(length: int, resized: int, shrinks: Tensor) -> Tensor:
    """Weights (resized, length) float32 of a triangle filter: torch's kernel, with centres rounded to float32, if a
    side shrinks, else OpenCV's. shrinks: (1, 1) bool."""
    rounded, exact = (_triangles(length, resized, shrinks.device, dtype) for dtype in (torch.float32, torch.float64))
    return torch.where(shrinks, rounded, exact.float())


def _triangles(length: int, resized: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Weights (resized, length) of a triangle filter."""
    scale = torch.full((1, 1), length, dtype=dtype, device=device) / resized
    centers = (torch.arange(resized, dtype=dtype, device=device)[:, None] + 0.5) * scale
    offsets = torch.arange(length, dtype=dtype, device=device) + 0.5 - centers
    weights = (1 - offsets.abs() / scale.clamp(min=1)).clamp(min=0)
    return weights / weights.sum(1, keepdim=True)


def _to_levels(x: Tensor, largest: int = 255) -> Tensor:
    return (x + 0.5).floor().clamp(0, largest)
