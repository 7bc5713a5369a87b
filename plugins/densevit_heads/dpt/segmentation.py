"""The DPT head for semantic segmentation."""

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from densevit.interfaces import Class, LossContext, Losses, Outputs, Targets
from densevit.losses.class_weights import ClassWeights, Weighting
from densevit.losses.segmentation import cross_entropy, dice, label_maps
from densevit_heads.dpt.decoder import DptDecoder, double, feature_indices, normalisation, upsample
from densevit_heads.dpt.depth import check_widths
from densevit_heads.parts.class_map_layers import check_shares
from densevit_heads.parts.class_maps import WeightedClassMapHead


class DptSegmentation(WeightedClassMapHead):
    """Semantic segmentation by DPT (Ranftl et al. 2021, sections 3 and 5.2).

    Matches the published ADE20K models, which use the backbones given in `DptDepth`.

    width, reassemble_channels, features: the options of `DptDepth`.
    norm: the norm of the residual units of the fusion and of the classifier, see
        `densevit_heads.dpt.decoder.normalisation`.
    dropout: dropout of single values before the classifier.
    auxiliary_weight: loss weight of a second classifier, on the second last fusion; 0 disables.
    class_weights: class weights of the cross-entropy, or "balanced": from the frequencies so far (see `ClassWeights`).
    dice: weight of an additional dice loss; 0 disables.
    """

    def __init__(
        self,
        channels: Sequence[int],
        strides: Sequence[int],
        classes: Sequence[Class],
        width: int = 256,
        reassemble_channels: tuple[int, ...] | None = None,
        features: tuple[int, ...] | None = None,
        norm: Literal["sync", "batch", "group"] = "sync",
        dropout: float = 0.1,
        auxiliary_weight: float = 0.2,
        class_weights: Weighting = None,
        label_smoothing: float = 0.0,
        dice: float = 0.0,
    ) -> None:
        super().__init__(channels, strides, classes)
        K = len(classes)
        self.feature_indices = feature_indices(features, len(channels))
        check_widths(width, reassemble_channels, len(self.feature_indices))
        check_shares({"dropout": dropout, "label_smoothing": label_smoothing})
        for option, weight in {"auxiliary_weight": auxiliary_weight, "dice": dice}.items():
            if not 0 <= weight < math.inf:
                raise ValueError(f"{option} is {weight}; it must be finite and at least 0.")
        self.auxiliary_weight, self.label_smoothing, self.dice_weight = auxiliary_weight, label_smoothing, dice
        self.class_weights = ClassWeights(K, class_weights)

        inputs = [channels[i] for i in self.feature_indices], [strides[i] for i in self.feature_indices]
        self.decode = DptDecoder(*inputs, width, reassemble_channels, norm)
        if auxiliary_weight and self.decode.fusions < 2:
            raise ValueError(
                f"auxiliary_weight is {auxiliary_weight:g}, but a single map of stride {inputs[1][0]} has only one "
                "fusion. Fix: set it to 0."
            )

        def classifier() -> nn.Sequential:
            convolution = nn.Conv2d(width, width, 3, padding=1, bias=False)
            return nn.Sequential(
                convolution, normalisation(norm, width), nn.ReLU(), nn.Dropout(dropout), nn.Conv2d(width, K, 1)
            )

        self.classifier = classifier()
        self.auxiliary = classifier() if auxiliary_weight else None

    def forward(self, features: list[Tensor], padding_mask: Tensor, targets: list[Targets] | None = None) -> Outputs:
        """`logits` (B, K, h, w) at half the image resolution; in training also `auxiliary`, at a quarter."""
        H, W = padding_mask.shape[-2:]
        fused = self.decode([features[i] for i in self.feature_indices], (H, W))
        outputs = {"logits": self.classifier(fused[-1])}
        if self.training and self.auxiliary is not None:
            outputs["auxiliary"] = self.auxiliary(fused[-2])
        return outputs

    def loss(self, outputs: Outputs, targets: list[Targets], context: LossContext) -> Losses:
        """Returns `cross_entropy`, `dice` if enabled, and `auxiliary`, the sum of the second classifier's losses.

        Each is a mean over the labelled pixels of all processes.
        """
        logits = outputs["logits"]
        labels = label_maps(targets, logits.device)
        size = (labels.shape[1], labels.shape[2])
        weights = self.class_weights(labels, context)
        losses = self._terms(self.maps(outputs, size), labels, weights, context)
        if self.auxiliary is not None:
            auxiliary_loss = logits.new_zeros((), dtype=torch.float32)  # stays 0 in evaluation
            if "auxiliary" in outputs:
                auxiliary = upsample(outputs["auxiliary"].float(), 2 * self.decode.stride, size)
                auxiliary_loss = torch.stack(list(self._terms(auxiliary, labels, weights, context).values())).sum()
            losses["auxiliary"] = self.auxiliary_weight * auxiliary_loss
        return losses

    def _terms(self, logits: Tensor, labels: Tensor, weights: Tensor | None, context: LossContext) -> Losses:
        losses = {"cross_entropy": cross_entropy(logits, labels, context, weights, self.label_smoothing)}
        if self.dice_weight:
            losses["dice"] = self.dice_weight * dice(logits, labels, context)
        return losses

    def upsample(self, logits: Tensor, size: tuple[int, int]) -> Tensor:
        return upsample(double(logits.float()), self.decode.stride / 2, size)
