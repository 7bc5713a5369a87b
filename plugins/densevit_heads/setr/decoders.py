"""SETR's decoders (Zheng et al. 2021, section 3.3): upsampling, naive or progressive, and multi-level aggregation.

All upsampling is bilinear with `align_corners` off. A classifier is a 1x1 convolution and commutes with the upsampling
that follows a stage, whose weights sum to 1: it comes before it, on a fourth to a sixteenth of the cells, and maps of
logits are upsampled in fp32 in place of features.
"""

import itertools
import math
from collections.abc import Sequence
from fractions import Fraction
from typing import Literal

from torch import Tensor, nn
from torch.nn import functional as F

from densevit.layers.norms import LayerNorm2d, SyncBatchNorm2d

Norm = Literal["batch", "sync", "group"]

_EPS = 1e-6  # of the layer norms on a backbone's maps


class Classifier(nn.Conv2d):
    """Dropout of whole channels, then a 1x1 convolution: (B, C, H, W) -> (B, K, H, W)."""

    def __init__(self, channels: int, num_classes: int, dropout: float) -> None:
        super().__init__(channels, num_classes, 1)
        self.dropout = dropout
        nn.init.normal_(self.weight, std=0.01)
        nn.init.zeros_(self.bias)  # type: ignore[arg-type]  # it has one

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(F.dropout2d(x, self.dropout, self.training))


class UpsamplingDecoder(nn.Module):
    """Layer norm, then stages of convolution, norm, ReLU and bilinear upsampling, and a classifier, on one map.

    factors: how much each stage upsamples by. stride: the map's; `logits_stride` is what remains of it.
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

    Maps of one stride are added as they are, which is the paper's; a pyramid's coarser sums are first brought to the
    finer map's grid. The branches are upsampled to one grid, that of the finest map times `factor`, and concatenated
    for the classifier; here each goes through its share of the classifier first, and the results are added.

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
        """Logits (B, K, f * H, f * W) in fp32 for a finest map of H x W, f the factor, and the aggregated maps."""
        sums = [project(norm(x)) for project, norm, x in zip(self.project, self.norms, features, strict=True)]
        for i in range(len(sums) - 2, -1, -1):
            ratio = Fraction(self.feature_strides[i + 1], self.feature_strides[i])
            sums[i] = sums[i] + on_grid(sums[i + 1], ratio, sums[i].shape[-2:])
        aggregated = [extract(x) for extract, x in zip(self.extract, sums, strict=True)]

        h, w = features[0].shape[-2:]
        size = (h * self.factor, w * self.factor)
        shares = self.classifier.weight.chunk(len(aggregated), dim=1)
        logits = self.classifier.bias[:, None, None].float()  # type: ignore[index]  # it has one
        for x, branch, share, stride in zip(aggregated, self.branches, shares, self.feature_strides, strict=True):
            x = F.dropout2d(branch(x), self.dropout, self.training)
            logits = logits + on_grid(F.conv2d(x, share).float(), stride / self.logits_stride, size)
        return logits, aggregated


def on_grid(x: Tensor, ratio: Fraction, size: Sequence[int]) -> Tensor:
    """A map brought to cells `ratio` times as fine, and cut to `size` at the top left: (B, C, *size).

    A map covers whole cells of its own, and so at least as much of the picture as a finer one.
    """
    if ratio != 1:
        covered = [-(-n * ratio.numerator // ratio.denominator) for n in x.shape[-2:]]  # rounded up
        x = F.interpolate(x, size=covered, mode="bilinear", align_corners=False)
    return x[..., : size[0], : size[1]]


def upsample(x: Tensor, factor: int) -> Tensor:
    """(B, C, H, W) -> (B, C, factor * H, factor * W)."""
    return on_grid(x, Fraction(factor), [factor * n for n in x.shape[-2:]])


def factors_to(stride: int, factor: int, stages: int) -> tuple[int, ...]:
    """A `factor` a stage: as many of `stages` as do not go beyond one cell a pixel, but one at least."""
    fitting = [n for n in range(1, stages + 1) if factor**n <= stride]
    return (factor,) * fitting[-1] if fitting else (stride,)


def _convolution(channels: int, width: int, kernel: int, norm: Norm) -> nn.Sequential:
    """Convolution, norm, ReLU."""
    convolution = nn.Conv2d(channels, width, kernel, padding=kernel // 2, bias=False)
    nn.init.kaiming_normal_(convolution.weight, mode="fan_out", nonlinearity="relu")
    normalisation: nn.Module
    if norm == "group":
        normalisation = nn.GroupNorm(math.gcd(32, width), width)
    else:
        normalisation = SyncBatchNorm2d(width) if norm == "sync" else nn.BatchNorm2d(width)
    return nn.Sequential(convolution, normalisation, nn.ReLU())
