"""What the heads of RF-DETR and GTR with masks share: targets, predictions and exported outputs of masks."""

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor

from densevit.interfaces import LossContext, Losses, Outputs, Predictions, Targets
from densevit.layers.tracing import computed_rows, kept_rows, sides
from densevit.set_prediction.head import SetPredictionHead
from densevit.set_prediction.limits import MAX_LAYERS, check_counts, check_weights
from densevit.set_prediction.mask_matching import MaskWeights
from densevit.set_prediction.mask_predictions import MaskLogits, upsampled
from densevit.set_prediction.predictions import class_scores, top_scores
from densevit_heads.parts.mask_branch import MaskBranch


class InstanceMaskHead(SetPredictionHead):
    """A detection head whose outputs have `masks`, logits (B, Q, h, w) at stride `mask_stride`.

    The first base of a head, whose second base is the head without masks. Predicted masks are upsampled to the size of
    the network's input, then resized to the image file; the authors' code resizes them once.
    """

    required_targets: ClassVar[tuple[str, ...]] = ("boxes", "labels", "masks")
    mask_stride: int
    mask_branch: MaskBranch

    def add_mask_branch(
        self, stride: int, mask_stride: int, width: int, num_blocks: int, mask_weight: float, dice_weight: float
    ) -> MaskWeights:
        """Checks the options of masks and builds `mask_branch`. stride: the finest feature's stride."""
        check_counts({"mask_stride": mask_stride}, 1, MAX_LAYERS)
        check_weights({"mask_weight": mask_weight, "dice_weight": dice_weight})
        if stride % mask_stride:
            raise ValueError(
                f"mask_stride is {mask_stride}; the finest feature's stride, {stride}, must be a multiple."
            )
        self.mask_stride, self._scale = mask_stride, stride // mask_stride
        self.mask_branch = MaskBranch(width, num_blocks)
        return MaskWeights(mask=mask_weight, dice=dice_weight)

    def embed(self, finest: Tensor, queries: Tensor) -> tuple[Tensor, list[Tensor]]:
        """The results of `mask_branch` at `mask_stride`. finest: the finest level (B, C, H, W)."""
        size = (self._scale * finest.shape[-2], self._scale * finest.shape[-1])
        embeddings, pixels = self.mask_branch(finest, size, queries)
        return embeddings, pixels

    def loss_counts(self, targets: list[Targets]) -> dict[str, float]:
        return super().loss_counts(with_masks(targets))

    def loss(self, outputs: Outputs, targets: list[Targets], context: LossContext) -> Losses:
        """Also returns `mask` and `dice` of the last layer.

        Points are random in training and the same at each call in evaluation.
        """
        generator = None if self.training else torch.Generator(outputs["logits"].device).manual_seed(0)
        return super().loss({**outputs, "generator": generator}, with_masks(targets), context)

    @torch.no_grad()
    def predict(self, outputs: Outputs, targets: list[Targets]) -> list[Predictions]:
        """The predictions of the head without masks, and their `masks` (N, H, W) bool."""
        predictions = super().predict(outputs, targets)
        masks, lowest = outputs["masks"], outputs.get("lowest_score", 0.0)
        return _with_masks(predictions, class_scores(outputs["logits"]), masks, self.mask_stride, targets, lowest)

    @torch.no_grad()
    def predict_exported(self, exported: Mapping[str, Tensor], targets: list[Targets]) -> list[Predictions]:
        """The predictions of `predict` from the outputs of `exported`."""
        predictions = super().predict_exported(exported, targets)
        return _with_masks(predictions, exported["scores"].float(), exported["mask_logits"], 1, targets)

    def exported(
        self, outputs: Outputs, size: tuple[int, int], original_size: tuple[int, int] | None = None
    ) -> dict[str, Tensor]:
        """`boxes` and `scores` as without masks, and `mask_logits` (B, Q, H, W), which are positive inside a mask."""
        _, masks = upsampled(outputs["masks"].float(), self.mask_stride, size, original_size or size)
        return {**super().exported(outputs, size, original_size), "mask_logits": masks}


def with_masks(targets: list[Targets]) -> list[Targets]:
    """The targets, without the labels of images that lack masks."""
    return [x if "masks" in x else {key: value for key, value in x.items() if key != "labels"} for x in targets]


def _with_masks(
    predictions: list[Predictions],
    scores: Tensor,
    masks: Tensor,
    stride: int,
    targets: list[Targets],
    lowest: Tensor | float = 0.0,
) -> list[Predictions]:
    """The predictions of `top_predictions` of at least the score `lowest`, with `masks` (N, H, W) bool at the original
    size.

    scores: (B, Q, K). masks: logits (B, Q, h, w) at this stride.
    """
    result = []
    for prediction, query, logits, target in zip(
        predictions, top_scores(scores)[2], masks.float(), targets, strict=True
    ):
        keep = ~(prediction["scores"] < lowest)
        rows = computed_rows(keep)
        size, original = sides(target["size"]), sides(target["original_size"])
        objects = {key: value[rows] for key, value in prediction.items()}
        objects["masks"] = torch.empty(rows.shape[0], *original, dtype=torch.bool, device=logits.device)
        for first, _, x in MaskLogits(logits, stride, size, original).resized(query[rows]):
            objects["masks"][first : first + x.shape[0]] = x > 0
        result.append(kept_rows(keep[rows], objects))
    return result
