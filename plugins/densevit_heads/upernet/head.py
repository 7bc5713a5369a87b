"""The UPerNet head for semantic segmentation."""

import math
from collections.abc import Sequence
from fractions import Fraction

import torch
from torch import Tensor, nn

from densevit.errors import ConfigError
from densevit.interfaces import Class, Dataset, LossContext, Losses, Outputs, Targets
from densevit.layers.norms import LayerNorm2d
from densevit.losses.class_weights import ClassWeights, Weighting
from densevit.losses.segmentation import cross_entropy, label_maps
from densevit.set_prediction.limits import check_counts
from densevit_heads.parts.class_map_layers import Classifier, Norm, check_shares, convolution, resample
from densevit_heads.parts.class_maps import WeightedClassMapHead
from densevit_heads.upernet.pyramid_pooling import PyramidPooling

_FEATURE_NORM_EPS = 1e-6


class UPerNet(WeightedClassMapHead):
    """Semantic segmentation by UPerNet (Xiao et al. 2018, section 3.2): pyramid pooling and a feature pyramid.

    Pyramid pooling on the coarsest feature, top-down sums to the finer ones, and a 3x3 convolution on all levels at the
    resolution of the finest level and of the logits. Structure and defaults are mmsegmentation's, whose models with
    Swin and ConvNeXt are published. In a padded batch, each image is pooled over its own cells.

    width: channels of all levels. pool_scales: numbers of regions per axis of the pyramid pooling.
    auxiliary_weight: loss weight of a fully convolutional head, a 3x3 convolution and a classifier, on the second
        coarsest feature (stride 16); 0 disables. auxiliary_width: its channels.
    norm: "sync": batch norm over all processes; "batch": per process; "group": group norm, also for batches of a single
        image, where batch norm has only one value per channel in the pooling to one region.
    dropout: channel dropout before the classifiers.
    feature_norm: a layer norm on each feature first, as in published models with ConvNeXt; for backbones with raw
        features, such as `timm`.
    class_weights: class weights of the cross-entropy, or "balanced": from the frequencies so far (see `ClassWeights`).
    """

    finest_stride = 4

    def __init__(
        self,
        channels: Sequence[int],
        strides: Sequence[int],
        classes: Sequence[Class],
        width: int = 512,
        pool_scales: tuple[int, ...] = (1, 2, 3, 6),
        auxiliary_weight: float = 0.4,
        auxiliary_width: int = 256,
        norm: Norm = "sync",
        dropout: float = 0.1,
        feature_norm: bool = False,
        class_weights: Weighting = None,
    ) -> None:
        super().__init__(channels, strides, classes)
        K = len(classes)
        check_counts({"width": width, "auxiliary_width": auxiliary_width})
        if not pool_scales or not 1 <= min(pool_scales) <= max(pool_scales) <= 64:
            raise ValueError(f"pool_scales is {list(pool_scales)}; expected numbers of regions from 1 to 64.")
        check_shares({"dropout": dropout})
        if not 0 <= auxiliary_weight < math.inf:
            raise ValueError(f"auxiliary_weight is {auxiliary_weight}; it must be finite and at least 0.")
        self.class_weights = ClassWeights(K, class_weights)
        self.feature_strides, self.auxiliary_weight, self.norm_kind = tuple(strides), auxiliary_weight, norm
        self.feature_norms = nn.ModuleList(
            LayerNorm2d(count, eps=_FEATURE_NORM_EPS) for count in (channels if feature_norm else ())
        )
        self.pooling = PyramidPooling(channels[-1], width, pool_scales, norm)
        self.bottleneck = convolution(channels[-1] + len(pool_scales) * width, width, 3, norm)
        self.laterals = nn.ModuleList(convolution(count, width, 1, norm) for count in channels[:-1])
        self.outputs = nn.ModuleList(convolution(width, width, 3, norm) for _ in channels[:-1])
        self.fuse = convolution(len(channels) * width, width, 3, norm)
        self.classifier = Classifier(width, K, dropout)
        self.auxiliary_feature = max(len(channels) - 2, 0)
        self.auxiliary: nn.Sequential | None = None
        if auxiliary_weight:
            layer = convolution(channels[self.auxiliary_feature], auxiliary_width, 3, norm)
            self.auxiliary = nn.Sequential(layer, Classifier(auxiliary_width, K, dropout))

    def check(self, dataset: Dataset) -> None:
        """Raises ConfigError if all features have the same stride, as in a plain ViT."""
        super().check(dataset)
        if len(set(self.feature_strides)) == 1:
            raise ConfigError(
                f"needs features of several strides; the backbone's all have stride {self.feature_strides[0]}. "
                "Fix: add neck: {name: simple_pyramid} to the head, or use a backbone with several strides."
            )

    def forward(self, features: list[Tensor], padding_mask: Tensor, targets: list[Targets] | None = None) -> Outputs:
        """Returns `logits` (B, K, h, w) at the stride of the finest feature, and in training `auxiliary`, the auxiliary
        head's logits."""
        if self.training and len(features[0]) == 1 and self.norm_kind != "group" and 1 in self.pooling.scales:
            raise ValueError(
                "UPerNet pools each image to one region, where batch norm has one value per channel for a batch of 1 "
                "image. Fix: set data.batch_size to 2 or more, or norm: group."
            )
        if self.feature_norms:
            features = [norm(x) for norm, x in zip(self.feature_norms, features, strict=True)]
        fused = self.fuse(torch.cat(self._levels(features, padding_mask), dim=1))
        outputs = {"logits": self.classifier(fused)}
        if self.training and self.auxiliary is not None:
            outputs["auxiliary"] = self.auxiliary(features[self.auxiliary_feature])
        return outputs

    def _levels(self, features: list[Tensor], padding_mask: Tensor) -> list[Tensor]:
        """The pyramid at the resolution of the finest feature, fine to coarse: (B, width, h, w) each."""
        strides, valid = self.feature_strides, ~padding_mask
        heights, widths = (
            (valid.any(axis).sum(1) + strides[-1] - 1) // strides[-1]
            for axis in (2, 1)  # (B,)
        )
        pooled = self.pooling(features[-1], heights, widths)
        sums = [lateral(x) for lateral, x in zip(self.laterals, features, strict=False)]
        sums.append(self.bottleneck(torch.cat([features[-1], *pooled], dim=1)))
        for i in range(len(sums) - 2, -1, -1):
            sums[i] = sums[i] + resample(sums[i + 1], Fraction(strides[i + 1], strides[i]), sums[i].shape[-2:])
        levels = [*(output(x) for output, x in zip(self.outputs, sums, strict=False)), sums[-1]]
        size = features[0].shape[-2:]
        return [resample(x, Fraction(stride, strides[0]), size) for x, stride in zip(levels, strides, strict=True)]

    def loss(self, outputs: Outputs, targets: list[Targets], context: LossContext) -> Losses:
        """Returns `cross_entropy` and, unless its weight is 0, `auxiliary`, the auxiliary head's cross-entropy.

        Each is a mean over the labelled pixels of all processes.
        """
        logits = outputs["logits"]
        labels = label_maps(targets, logits.device)
        size = (labels.shape[1], labels.shape[2])
        weights = self.class_weights(labels, context)
        losses = {"cross_entropy": cross_entropy(self.maps(outputs, size), labels, context, weights)}
        if self.auxiliary is not None:
            auxiliary = logits.new_zeros((), dtype=torch.float32)  # stays 0 in evaluation
            if "auxiliary" in outputs:
                stride = Fraction(self.feature_strides[self.auxiliary_feature])
                maps = resample(outputs["auxiliary"].float(), stride, size)
                auxiliary = cross_entropy(maps, labels, context, weights)
            losses["auxiliary"] = self.auxiliary_weight * auxiliary
        return losses

    def upsample(self, logits: Tensor, size: tuple[int, int]) -> Tensor:
        return resample(logits, Fraction(self.feature_strides[0]), size)
