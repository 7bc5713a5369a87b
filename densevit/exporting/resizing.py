"""Resizing of images inside an exported file, as `predict` resizes them."""

import numpy as np
import torch
from torch import Tensor, nn

from densevit.data.transforms.resizing import resize_image
from densevit.errors import DensevitError
from densevit.interfaces import Transforms

_BITS = 16  # at most, per weight: sums of 255 times such weights are exact in float32
_LARGEST_WEIGHT = 2**15 - 0.5  # of the kernel's 16 bits


class Resizing(nn.Module):
    """Resizes uint8 images bilinearly, with antialiasing where they shrink, to the evaluation size.

    Follows Pillow's and torch's kernel for uint8: a horizontal and a vertical pass with integer weights, each rounded
    to uint8. The passes are products of integer matrices, which are exact in float32 in any order of summation, so all
    runtimes give the same pixels. Differs from `predict`'s resizing by at most one level.
    """

    def __init__(self, transforms: Transforms) -> None:
        super().__init__()
        self.transforms = transforms

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) uint8 -> (B, 3, h, w) uint8. Batch, H and W may be symbols of `torch.export`."""
        H, W = images.shape[-2:]
        h, w = self.transforms.evaluation_size(H, W)
        weights, unit = _weights(W, w, images.device)
        rows = _to_levels(images.float() @ weights.T / unit)  # (B, 3, H, w)
        weights, unit = _weights(H, h, images.device)
        return _to_levels(weights @ rows / unit).to(torch.uint8)


def check_resizing(resizing: Resizing, images: np.ndarray) -> None:
    """Raises DensevitError unless images (1, 3, H, W) uint8 are resized as by `predict`, to within one level."""
    found = resizing(torch.from_numpy(images))[0].permute(1, 2, 0).numpy().astype(int)
    H, W = images.shape[2:]
    expected = resize_image(
        np.ascontiguousarray(images[0].transpose(1, 2, 0)), resizing.transforms.evaluation_size(H, W)
    )
    if found.shape != expected.shape or np.abs(found - expected).max() > 1:
        raise DensevitError(
            f"The resizing of {type(resizing.transforms).__name__} on {H}x{W} pixels differs from predict's."
        )


def _weights(length: int, resized: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Integer weights (resized, length) float32 of a triangle filter, and the integer that represents 1.

    Computed in float64, because all runtimes must round a weight near a half in the same direction.
    """
    scale = torch.full((1, 1), length, dtype=torch.float64, device=device) / resized
    centers = (torch.arange(resized, dtype=torch.float64, device=device)[:, None] + 0.5) * scale
    offsets = torch.arange(length, dtype=torch.float64, device=device) + 0.5 - centers
    weights = (1 - offsets.abs() / scale.clamp(min=1)).clamp(min=0)
    weights = weights / weights.sum(1, keepdim=True)
    unit = 2 ** (_LARGEST_WEIGHT / weights.amax((0, 1))).log2().floor().clamp(max=_BITS)
    return (weights * unit + 0.5).floor().float(), unit.float()


def _to_levels(x: Tensor) -> Tensor:
    return (x + 0.5).floor().clamp(0, 255)
