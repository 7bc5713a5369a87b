"""The DPT head for semantic segmentation: features in, a map of classes out."""

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from densevit.interfaces import Class, Head, Losses, Outputs, Predictions, Targets
from densevit.layers.chunked_argmax import chunked_argmax
from densevit.losses.class_weights import ClassWeights, Weighting
from densevit.losses.segmentation import cross_entropy, dice, label_maps
from densevit_heads.dpt.decoder import Decoder, chosen, double, normalisation, on_pixels
from densevit_heads.dpt.depth import check_widths


class DptSegmentation(Head):
    """Semantic segmentation by DPT (Ranftl et al. 2021, sections 3 and 5.2).

    The arithmetic is that of the published ADE20K models, which stand on the backbones of `DptDepth`.

    width, reassemble_channels, features: as in `DptDepth`.
    norm: of the fusion's residual units and of the classifier; see `densevit_heads.dpt.decoder.normalisation`.
    dropout: of values before the classifier.
    auxiliary_weight: what the loss of a second classifier, on the last fusion but one, weighs; 0: without it.
    class_weights: what the pixels of each class weigh in the cross-entropy; "balanced": rare ones more, by the labels
        seen so far (see `ClassWeights`).
    dice: the weight of a dice loss beside the cross-entropy; 0 for none.
    """

    task = "segmentation"
    needs = ("semantic",)

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
        self.taken = chosen(features, len(channels))
        check_widths(width, reassemble_channels, len(self.taken))
        for option, share in {"dropout": dropout, "label_smoothing": label_smoothing}.items():
            if not 0 <= share < 1:
                raise ValueError(f"{option} is {share}; it is at least 0 and below 1.")
        for option, weight in {"auxiliary_weight": auxiliary_weight, "dice": dice}.items():
            if not 0 <= weight < math.inf:
                raise ValueError(f"{option} is {weight}; it is at least 0.")
        self.auxiliary_weight, self.label_smoothing, self.dice_weight = auxiliary_weight, label_smoothing, dice
        self.class_weights = ClassWeights(K, class_weights)

        taken = [channels[i] for i in self.taken], [strides[i] for i in self.taken]
        self.decode = Decoder(*taken, width, reassemble_channels, norm)
        if auxiliary_weight and self.decode.fusions < 2:
            raise ValueError(
                f"auxiliary_weight is {auxiliary_weight:g}, but a single map of stride {taken[1][0]} is fused once, "
                "and no other fusion has a loss: set it to 0."
            )

        def classifier() -> nn.Sequential:
            convolution = nn.Conv2d(width, width, 3, padding=1, bias=False)
            return nn.Sequential(
                convolution, normalisation(norm, width), nn.ReLU(), nn.Dropout(dropout), nn.Conv2d(width, K, 1)
            )

        self.classifier = classifier()
        self.auxiliary = classifier() if auxiliary_weight else None

    def forward(self, features: list[Tensor], padding_mask: Tensor, targets: list[Targets] | None = None) -> Outputs:
        """`logits` (B, K, h, w) at half the pixels' resolution; in training also `auxiliary`, at a fourth."""
        H, W = padding_mask.shape[-2:]
        fused = self.decode([features[i] for i in self.taken], (H, W))
        outputs = {"logits": self.classifier(fused[-1])}
        if self.training and self.auxiliary is not None:
            outputs["auxiliary"] = self.auxiliary(fused[-2])
        return outputs

    def loss(self, outputs: Outputs, targets: list[Targets]) -> Losses:
        """`cross_entropy`, `dice` where it is chosen, and `auxiliary`, the same of the second classifier.

        Each is a mean over the labelled pixels of all processes.
        """
        logits = outputs["logits"]
        labels = label_maps(targets, logits.device)
        size = (labels.shape[1], labels.shape[2])
        weights = self.class_weights(labels)
        losses = self._terms(self.maps(outputs, size), labels, weights)
        if self.auxiliary is not None:
            others = logits.new_zeros((), dtype=torch.float32)  # there is no such map in evaluation
            if "auxiliary" in outputs:
                auxiliary = on_pixels(outputs["auxiliary"].float(), 2 * self.decode.stride, size)
                others = torch.stack(list(self._terms(auxiliary, labels, weights).values())).sum()
            losses["auxiliary"] = self.auxiliary_weight * others
        return losses

    def _terms(self, logits: Tensor, labels: Tensor, weights: Tensor | None) -> Losses:
        losses = {"cross_entropy": cross_entropy(logits, labels, weights, self.label_smoothing)}
        if self.dice_weight:
            losses["dice"] = self.dice_weight * dice(logits, labels)
        return losses

    @torch.no_grad()
    def predict(self, outputs: Outputs, targets: list[Targets]) -> list[Predictions]:
        """`semantic` (H, W) uint8 an image, in original pixels: the likeliest class.

        Logits go to the picture's grid, lose their padding, and go on to original pixels, some classes at a time.
        """
        return [
            {"semantic": chunked_argmax(own, self._on_pixels, tuple(target["size"]), tuple(target["original_size"]))}
            for own, target in zip(outputs["logits"], targets, strict=True)
        ]

    def maps(self, outputs: Outputs, size: tuple[int, int]) -> Tensor:
        """Logits (B, K, *size) in fp32. size: of the batch's grid in pixels, or of its top left part."""
        return self._on_pixels(outputs["logits"], size)

    def read_maps(self, maps: Tensor) -> dict[str, Tensor]:
        """(B, K, H, W) of `maps`, or any mean of them -> `semantic` (B, H, W) uint8, the likeliest class."""
        return {"semantic": maps.argmax(1).to(torch.uint8)}

    def _on_pixels(self, logits: Tensor, size: tuple[int, int]) -> Tensor:
        return on_pixels(double(logits.float()), self.decode.stride / 2, size)
