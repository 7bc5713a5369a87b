"""Predictions of heads whose outputs are class logits per pixel."""

from collections.abc import Mapping

import torch
from torch import Tensor

from densevit.interfaces import DenseHead, LossContext, Losses, Outputs, Predictions, Targets
from densevit.layers.chunked_argmax import chunked_argmax
from densevit.losses.class_weights import ClassWeights
from densevit.losses.segmentation import cross_entropy, label_counts, label_maps


class ClassMapHead(DenseHead):
    """A head with class logits per pixel, `logits` (B, K, h, w), trained by cross-entropy. Subclasses implement
    `upsample`."""

    task = "segmentation"
    required_targets = ("semantic",)

    def upsample(self, logits: Tensor, size: tuple[int, int]) -> Tensor:
        """To implement: resizes logits (B, k, h, w) of k classes to `size`, of the network input or a top-left crop."""
        raise NotImplementedError

    def loss_counts(self, targets: list[Targets]) -> dict[str, float]:
        """The normalisers of the cross-entropy."""
        return label_counts(targets)

    def loss(self, outputs: Outputs, targets: list[Targets], context: LossContext) -> Losses:
        """Returns `cross_entropy`, a mean over the labelled pixels of all processes."""
        labels = label_maps(targets, outputs["logits"].device)
        maps = self.maps(outputs, (labels.shape[1], labels.shape[2]))
        return {"cross_entropy": cross_entropy(maps, labels, context)}

    @torch.no_grad()
    def predict(self, outputs: Outputs, targets: list[Targets]) -> list[Predictions]:
        """Returns `semantic` (H, W) uint8 per image at its original size.

        Logits are upsampled, cropped to the image, resized to the original size in chunks of classes, then argmax.
        """
        return [
            {"semantic": chunked_argmax(logits, self.upsample, tuple(target["size"]), tuple(target["original_size"]))}
            for logits, target in zip(outputs["logits"].float(), targets, strict=True)
        ]

    @torch.no_grad()
    def predict_exported(self, exported: Mapping[str, Tensor], targets: list[Targets]) -> list[Predictions]:
        """The predictions of `predict` from the outputs of `exported`."""
        predictions = []
        for i, target in enumerate(targets):
            sizes = tuple(target["size"]), tuple(target["original_size"])
            semantic = exported["semantic"][i]
            if sizes[0] != sizes[1]:
                semantic = chunked_argmax(exported["maps"][i].float(), lambda maps, _: maps, *sizes)
            predictions.append({"semantic": semantic})
        return predictions

    def maps(self, outputs: Outputs, size: tuple[int, int]) -> Tensor:
        """Logits (B, K, *size) in fp32. size: (H, W) in pixels of the padded batch or a top-left crop of it."""
        maps = self.upsample(outputs["logits"].float(), size)
        if tuple(maps.shape[-2:]) != tuple(size):
            raise ValueError(f"The maps cover {tuple(maps.shape[-2:])} pixels; {tuple(size)} were requested.")
        return maps

    def read_maps(self, maps: Tensor) -> Predictions:
        """(B, K, h, w) logits or probabilities -> `semantic` (B, h, w) uint8 by argmax."""
        return {"semantic": maps.argmax(1).to(torch.uint8)}


class WeightedClassMapHead(ClassMapHead):
    """A head whose cross-entropy has class weights."""

    class_weights: ClassWeights

    def loss_counts(self, targets: list[Targets]) -> dict[str, float]:
        return {} if self.class_weights.balanced else label_counts(targets, self.class_weights.fixed)

    def loss(self, outputs: Outputs, targets: list[Targets], context: LossContext) -> Losses:
        """Returns `cross_entropy`, a mean over the labelled pixels of all processes."""
        labels = label_maps(targets, outputs["logits"].device)
        maps = self.maps(outputs, (labels.shape[1], labels.shape[2]))
        return {"cross_entropy": cross_entropy(maps, labels, context, self.class_weights(labels, context))}
