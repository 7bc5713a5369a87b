"""SETR's decoders (Zheng et al. 2021, section 3.3): naive or progressive upsampling, and multi-level aggregation.

All upsampling is bilinear with `align_corners=False`. Its weights sum to 1, so a 1x1 convolution commutes with it. The
classifier therefore precedes the last upsampling, on 4 to 16 times fewer cells, and logits are upsampled in fp32
instead of features.
"""

import itertools
import math
from collections.abc import Sequence
from fractions import Fraction
from typing import Literal

from torch import Tensor, nn
from torch.nn import functional as F

from densevit.layers.norms import GroupNorm, LayerNorm2d, SyncBatchNorm2d

Norm = Literal["batch", "sync", "group"]

_EPS = 1e-6  # of the layer norms on backbone features


class Classifier(nn.Conv2d):
    """Channel dropout, then a 1x1 convolution: (B, C, H, W) -> (B, K, H, W)."""

    def __init__(self, channels: int, num_classes: int, dropout: float) -> None:
        super().__init__(channels, num_classes, 1)
        self.dropout = dropout
        nn.init.normal_(self.weight, std=0.01)
        nn.init.zeros_(self.bias)  # type: ignore[arg-type]  # bias exists

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(F.dropout2d(x, self.dropout, self.training))


class UpsamplingDecoder(nn.Module):
    """Layer norm, stages of convolution, norm, ReLU and bilinear upsampling, and a classifier, on one map.

    factors: upsampling factor of each stage. stride: of the input map; that of the output is `logits_stride`.
    """

    def __init__(
        self,
        channels: int,
        stride: int,
        num_classes: int,
        width: int,
        kernel: int,
        factors: Sequence[int],
        norm: Norm,
        dropout: float,
    ) -> None:
        super().__init__()
        self.factors = tuple(factors)
        self.logits_stride = Fraction(stride, math.prod(factors))
        self.norm = LayerNorm2d(channels, eps=_EPS)
        widths = (channels, *(width for _ in factors))
        self.convolutions = nn.ModuleList(_convolution(a, b, kernel, norm) for a, b in itertools.pairwise(widths))
        self.classifier = Classifier(width, num_classes, dropout)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> logits (B, K, f * H, f * W) in fp32, f the product of `factors`."""
        x = self.norm(x)
        for convolution, factor in zip(self.convolutions[:-1], self.factors[:-1], strict=True):
            x = upsample(convolution(x), factor)
        return upsample(self.classifier(self.convolutions[-1](x)).float(), self.factors[-1])


class MultiLevelDecoder(nn.Module):
    """Multi-level feature aggregation (MLA): top-down sums of all maps, then a branch of convolutions on each.

    Maps of equal stride are added directly, as in the paper; in a pyramid, coarser sums are upsampled first. The paper
    upsamples the branches to `factor` times the finest map and concatenates them for the classifier; here each branch
    is first multiplied by its part of the classifier weight, and the results are added.

    width: channels of the sums. branch_width: channels of each branch.
    """

    def __init__(
        self,
        channels: Sequence[int],
        strides: Sequence[int],
        num_classes: int,
        width: int,
        branch_width: int,
        factor: int,
        norm: Norm,
        dropout: float,
    ) -> None:
        super().__init__()
        self.feature_strides, self.dropout, self.factor = tuple(strides), dropout, factor
        self.logits_stride = Fraction(strides[0], factor)
        self.norms = nn.ModuleList(LayerNorm2d(c, eps=_EPS) for c in channels)
        self.project = nn.ModuleList(_convolution(c, width, 1, norm) for c in channels)
        self.extract = nn.ModuleList(_convolution(width, width, 3, norm) for _ in channels)
        self.branches = nn.ModuleList(
            nn.Sequential(_convolution(width, branch_width, 3, norm), _convolution(branch_width, branch_width, 3, norm))
            for _ in channels
        )
        self.classifier = Classifier(len(channels) * branch_width, num_classes, 0.0)

    def forward(self, features: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """Returns logits (B, K, f * H, f * W) in fp32, for a finest map of H x W and factor f, and aggregated maps."""
        sums = [project(norm(x)) for project, norm, x in zip(self.project, self.norms, features, strict=True)]
        for i in range(len(sums) - 2, -1, -1):
            ratio = Fraction(self.feature_strides[i + 1], self.feature_strides[i])
            sums[i] = sums[i] + resample(sums[i + 1], ratio, sums[i].shape[-2:])
        aggregated = [extract(x) for extract, x in zip(self.extract, sums, strict=True)]

        h, w = features[0].shape[-2:]
        size = (h * self.factor, w * self.factor)
        weights = self.classifier.weight.chunk(len(aggregated), dim=1)
        logits = self.classifier.bias[:, None, None].float()  # type: ignore[index]  # bias exists
        for x, branch, weight, stride in zip(aggregated, self.branches, weights, self.feature_strides, strict=True):
            x = F.dropout2d(branch(x), self.dropout, self.training)
            logits = logits + resample(F.conv2d(x, weight).float(), stride / self.logits_stride, size)
        return logits, aggregated


def resample(x: Tensor, ratio: Fraction, size: Sequence[int]) -> Tensor:
    """Upsamples x by `ratio`, then crops it at the right and bottom: (B, C, *size).

    A map consists of whole cells and therefore covers at least as much of the image as a finer map.
    """
    if ratio != 1:
        full = [-(-n * ratio.numerator // ratio.denominator) for n in x.shape[-2:]]  # rounded up
        x = F.interpolate(x, size=full, mode="bilinear", align_corners=False)
    return x[..., : size[0], : size[1]]


def upsample(x: Tensor, factor: int) -> Tensor:
    """(B, C, H, W) -> (B, C, factor * H, factor * W)."""
    return resample(x, Fraction(factor), [factor * n for n in x.shape[-2:]])


def factors_to(stride: int, factor: int, stages: int) -> tuple[int, ...]:
    """Up to `stages` factors, as many as do not exceed pixel resolution, but at least one stage."""
    possible = [n for n in range(1, stages + 1) if factor**n <= stride]
    return (factor,) * possible[-1] if possible else (stride,)


def _convolution(channels: int, width: int, kernel: int, norm: Norm) -> nn.Sequential:
    """Convolution, norm, ReLU."""
    convolution = nn.Conv2d(channels, width, kernel, padding=kernel // 2, bias=False)
    nn.init.kaiming_normal_(convolution.weight, mode="fan_out", nonlinearity="relu")
    normalisation: nn.Module
    if norm == "group":
        normalisation = GroupNorm(math.gcd(32, width), width)
    else:
        normalisation = SyncBatchNorm2d(width) if norm == "sync" else nn.BatchNorm2d(width)
    return nn.Sequential(convolution, normalisation, nn.ReLU())
