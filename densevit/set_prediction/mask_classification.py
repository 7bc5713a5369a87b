"""Base of mask-classification heads (Cheng et al. 2021): each query predicts a class and a mask.

Losses and matching are Mask2Former's; the tasks differ in target keys and in predictions.
"""

from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
from torch import Tensor

from densevit.interfaces import Class, DenseHead, Head, LossContext, Losses, Outputs, Predictions, Targets
from densevit.layers.tracing import sides
from densevit.set_prediction import mask_predictions as prediction
from densevit.set_prediction.limits import MAX_QUERIES, check_classes, check_counts
from densevit.set_prediction.mask_criterion import MaskCriterion
from densevit.set_prediction.mask_predictions import MaskLogits
from densevit.set_prediction.mask_segments import REQUIRED_TARGETS, Task
from densevit.set_prediction.queries import MaskQueries

NUM_POINTS = 12544  # of masks, in matching and in losses (section 4.1)


class MaskClassification(Head):
    """Losses and predictions of mask queries (Mask2Former, Cheng et al. 2022).

    A subclass computes the outputs and is combined with a task's class.

    Outputs: `logits` (B, Q, K+1) of the last layer, whose last class is "no object"; in evaluation `masks`, its mask
    logits (B, Q, h, w) at `mask_stride`. For the loss `layers`, the `MaskQueries` of L layers as a tuple, and `pixels`,
    the per-pixel embeddings (B, C, h, w), or (L, B, C, h, w) if each layer has its own.

    mask_stride: the stride of the masks in pixels. num_points: the number of points at which masks are compared.
    """

    segments: ClassVar[Task]
    max_predictions: int | None = None
    partial_labels = True

    def __init__(
        self,
        channels: Sequence[int],
        strides: Sequence[int],
        classes: Sequence[Class],
        num_queries: int,
        mask_stride: int,
        num_points: int,
        semantic_loss: float = 0.0,
    ) -> None:
        super().__init__(channels, strides, classes)
        check_counts({"num_queries": num_queries}, maximum=MAX_QUERIES)
        check_counts({"num_points": num_points})
        check_classes(classes)
        self.num_queries, self.mask_stride = num_queries, mask_stride
        self.criterion = MaskCriterion(
            self.segments,
            len(classes),
            num_queries,
            num_points,
            mask_stride,
            semantic_weight=semantic_loss,
            check_counts=self.warn_of_objects,
        )

    def set_max_predictions(self, max_predictions: int | None) -> None:
        """max_predictions: the most instances predicted in an image; None: `num_queries`, at least 100."""
        if max_predictions is not None:
            check_counts({"max_predictions": max_predictions})
        self.max_predictions = max_predictions

    def loss_counts(self, targets: list[Targets]) -> dict[str, float]:
        return self.criterion.loss_counts(targets)

    def loss(self, outputs: Outputs, targets: list[Targets], context: LossContext) -> Losses:
        """Returns `label`, `mask` and `dice` of the last layer, `auxiliary`, their sum over the other layers, and
        `semantic` if the head has `semantic_loss`.

        `semantic` is computed from the outputs' `cells`, the class logits of a map; it is 0 in evaluation, which has no
        `cells`. Points are random in training and the same at each call in evaluation.
        """
        pixels = outputs["pixels"]
        generator = None if self.training else torch.Generator(pixels.device).manual_seed(0)
        return self.criterion.losses(
            MaskQueries(*outputs["layers"]), pixels, targets, context, generator, outputs.get("cells")
        )

    @torch.no_grad()
    def predict(self, outputs: Outputs, targets: list[Targets]) -> list[Predictions]:
        return [
            self.predictions(
                logits, MaskLogits(masks.float(), self.mask_stride, *_sizes(target), outputs.get("lowest_score", 0.0))
            )
            for logits, masks, target in zip(outputs["logits"].float(), outputs["masks"], targets, strict=True)
        ]

    @torch.no_grad()
    def predict_exported(self, exported: Mapping[str, Tensor], targets: list[Targets]) -> list[Predictions]:
        """The predictions of `predict` from the outputs of `exported`."""
        return [
            self.predictions(prediction.class_logits(scores.float()), MaskLogits(masks.float(), 1, *_sizes(target)))
            for scores, masks, target in zip(exported["scores"], exported["mask_logits"], targets, strict=True)
        ]

    def predictions(self, logits: Tensor, masks: MaskLogits) -> Predictions:
        """The predictions of an image. logits: (Q, K+1)."""
        raise NotImplementedError


class PanopticMaskClassification(MaskClassification):
    """Panoptic segmentation. threshold: least class probability of a segment in the panoptic map."""

    task, segments = "panoptic", "panoptic"
    required_targets = REQUIRED_TARGETS["panoptic"]
    object_limits = ("num_queries",)
    threshold: float

    def set_threshold(self, threshold: float) -> None:
        """Raises ValueError unless it is a probability."""
        if not 0 <= threshold <= 1:
            raise ValueError(f"threshold is {threshold:g}; expected a probability from 0 to 1.")
        self.threshold = threshold

    def predictions(self, logits: Tensor, masks: MaskLogits) -> Predictions:
        """`panoptic` (H, W) int32, class index * 1000 + number of the instance, -1 = void; `semantic` (H, W) uint8; and
        `masks` (N, H, W) bool, `boxes`, `labels` and `scores` of things."""
        return {
            "panoptic": prediction.panoptic(logits, masks, self.classes, self.threshold),
            "semantic": prediction.semantic(logits, masks),
            **prediction.instances(logits, masks, self.classes, self.max_predictions, things=True),
        }

    def exported(
        self, outputs: Outputs, size: tuple[int, int], original_size: tuple[int, int] | None = None
    ) -> dict[str, Tensor]:
        """`scores` (B, Q, K) and `mask_logits` (B, Q, H, W), which are positive inside a mask; and `semantic` (B, H, W)
        uint8, and its class scores `maps` (B, K, H, W)."""
        queries = prediction.exported_queries(outputs, self.mask_stride, size, original_size)
        return {**queries, **prediction.exported_maps(**queries)}


class InstanceMaskClassification(MaskClassification):
    """Instance segmentation: evaluated by box AP unless `evaluation: {name: coco_masks}`."""

    task, segments = "detection", "instance"
    required_targets = REQUIRED_TARGETS["instance"]

    def predictions(self, logits: Tensor, masks: MaskLogits) -> Predictions:
        """`masks` (N, H, W) bool, `boxes`, `labels` and `scores`."""
        return prediction.instances(logits, masks, self.classes, self.max_predictions)

    def exported(
        self, outputs: Outputs, size: tuple[int, int], original_size: tuple[int, int] | None = None
    ) -> dict[str, Tensor]:
        """`scores` (B, Q, K) and `mask_logits` (B, Q, H, W), which are positive inside a mask."""
        return prediction.exported_queries(outputs, self.mask_stride, size, original_size)


class SemanticMaskClassification(MaskClassification, DenseHead):
    """Semantic segmentation, with maps for test-time augmentation."""

    task, segments = "segmentation", "semantic"
    required_targets = REQUIRED_TARGETS["semantic"]

    def predictions(self, logits: Tensor, masks: MaskLogits) -> Predictions:
        """`semantic` (H, W) uint8."""
        return {"semantic": prediction.semantic(logits, masks)}

    def exported(
        self, outputs: Outputs, size: tuple[int, int], original_size: tuple[int, int] | None = None
    ) -> dict[str, Tensor]:
        """`semantic` (B, H, W) uint8, and its class scores `maps` (B, K, H, W). For images that are resized to another
        size afterwards, `scores` (B, Q, K), and `coarse_mask_logits` (B, Q, h, w) of the padded batch at `mask_stride`:
        masks are resized before their sum."""
        queries = prediction.exported_queries(outputs, self.mask_stride, size, original_size)
        maps = prediction.exported_maps(**queries)
        return {**maps, "scores": queries["scores"], "coarse_mask_logits": outputs["masks"].float()}

    @torch.no_grad()
    def predict_exported(self, exported: Mapping[str, Tensor], targets: list[Targets]) -> list[Predictions]:
        """The predictions of `predict` from the outputs of `exported`."""
        predictions = []
        for i, target in enumerate(targets):
            size, original = _sizes(target)
            if size == original:
                predictions.append({"semantic": exported["semantic"][i]})
                continue
            masks = MaskLogits(exported["coarse_mask_logits"][i].float(), self.mask_stride, size, original)
            predictions.append(self.predictions(prediction.class_logits(exported["scores"][i].float()), masks))
        return predictions

    def maps(self, outputs: Outputs, size: tuple[int, int]) -> Tensor:
        """Scores (B, K, *size) in fp32: sums over queries of class times mask probability.

        size: (H, W) in pixels of the padded batch or a top-left crop of it.
        """
        return torch.stack(
            [
                prediction.class_scores(logits, MaskLogits(masks, self.mask_stride, size, size))
                for logits, masks in zip(outputs["logits"].float(), outputs["masks"].float(), strict=True)
            ]
        )

    def read_maps(self, maps: Tensor) -> Predictions:
        """(B, K, h, w) of `maps`, or averages of them -> `semantic` (B, h, w) uint8 by argmax."""
        return {"semantic": maps.argmax(1).to(torch.uint8)}


def _sizes(target: Targets) -> tuple[tuple[int, int], tuple[int, int]]:
    """(h, w) of the image in the network's input, and of the image file."""
    return sides(target["size"]), sides(target["original_size"])
