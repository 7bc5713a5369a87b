"""SETR's decoders (Zheng et al. 2021, section 3.3): naive or progressive upsampling, and multi-level aggregation.

All upsampling is bilinear with `align_corners=False`. Its weights sum to 1, so a 1x1 convolution commutes with it. The
classifier therefore precedes the last upsampling, on 4 to 16 times fewer cells, and logits are upsampled in fp32
instead of features.
"""

import itertools
import math
from collections.abc import Sequence
from fractions import Fraction

from torch import Tensor, nn
from torch.nn import functional as F

from densevit.layers.norms import LayerNorm2d
from densevit_heads.parts.class_map_layers import Classifier, Norm, convolution, resample

_EPS = 1e-6  # of the layer norms on backbone features


class UpsamplingDecoder(nn.Module):
    """Layer norm, stages of convolution, norm, ReLU and bilinear upsampling, and a classifier, on one map.

    factors: upsampling factor of each stage. stride: the stride of the input map. The attribute `logits_stride` is the
    stride of the output.
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
        self.convolutions = nn.ModuleList(convolution(a, b, kernel, norm) for a, b in itertools.pairwise(widths))
        self.classifier = Classifier(width, num_classes, dropout)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> logits (B, K, f * H, f * W) in fp32, f the product of `factors`."""
        x = self.norm(x)
        for layer, factor in zip(self.convolutions[:-1], self.factors[:-1], strict=True):
            x = upsample(layer(x), factor)
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
        self.project = nn.ModuleList(convolution(c, width, 1, norm) for c in channels)
        self.extract = nn.ModuleList(convolution(width, width, 3, norm) for _ in channels)
        self.branches = nn.ModuleList(
            nn.Sequential(convolution(width, branch_width, 3, norm), convolution(branch_width, branch_width, 3, norm))
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


def upsample(x: Tensor, factor: int) -> Tensor:
    """(B, C, H, W) -> (B, C, factor * H, factor * W)."""
    return resample(x, Fraction(factor), [factor * n for n in x.shape[-2:]])


def factors_to(stride: int, factor: int, stages: int) -> tuple[int, ...]:
    """Up to `stages` factors, as many as do not exceed pixel resolution, but at least one stage."""
    possible = [n for n in range(1, stages + 1) if factor**n <= stride]
    return (factor,) * possible[-1] if possible else (stride,)
