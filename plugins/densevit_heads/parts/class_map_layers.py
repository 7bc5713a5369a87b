"""Layers of heads that classify pixels: convolutions with a norm, the classifier, and resampling of maps."""

import math
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Literal

from torch import Tensor, nn
from torch.nn import functional as F

from densevit.layers.norms import GroupNorm, SyncBatchNorm2d

Norm = Literal["batch", "sync", "group"]


class Classifier(nn.Conv2d):
    """Channel dropout, then a 1x1 convolution: (B, C, H, W) -> (B, K, H, W)."""

    def __init__(self, channels: int, num_classes: int, dropout: float) -> None:
        super().__init__(channels, num_classes, 1)
        self.dropout = dropout
        nn.init.normal_(self.weight, std=0.01)
        nn.init.zeros_(self.bias)  # type: ignore[arg-type]  # bias exists

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(F.dropout2d(x, self.dropout, self.training))


def convolution(channels: int, width: int, kernel: int, norm: Norm) -> nn.Sequential:
    """Convolution, norm, ReLU."""
    layer = nn.Conv2d(channels, width, kernel, padding=kernel // 2, bias=False)
    nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
    return nn.Sequential(layer, normalisation(norm, width), nn.ReLU())


def normalisation(norm: Norm, width: int) -> nn.Module:
    """Batch norm per process or over all, or group norm."""
    if norm == "group":
        return GroupNorm(math.gcd(32, width), width)
    return SyncBatchNorm2d(width) if norm == "sync" else nn.BatchNorm2d(width)


def check_shares(shares: Mapping[str, float]) -> None:
    """Raises ValueError unless each share, by option, is at least 0 and below 1."""
    for option, share in shares.items():
        if not 0 <= share < 1:
            raise ValueError(f"{option} is {share}; it must be at least 0 and below 1.")


def resample(x: Tensor, ratio: Fraction, size: Sequence[int]) -> Tensor:
    """Upsamples x by `ratio`, then crops it at the right and bottom: (B, C, *size).

    A map consists of whole cells and therefore covers at least as much of the image as a finer map.
    """
    if ratio != 1:
        full = [-(-n * ratio.numerator // ratio.denominator) for n in x.shape[-2:]]  # rounded up
        x = F.interpolate(x, size=full, mode="bilinear", align_corners=False)
    return x[..., : size[0], : size[1]]
