"""RF-DETR with masks."""

from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
from torch import Tensor

from densevit.interfaces import Class, LossContext, Losses, Outputs, Predictions, Targets
from densevit.layers.tracing import sides
from densevit.losses.matching import MatchingCosts
from densevit.losses.set_losses import LossWeights
from densevit.set_prediction.limits import MAX_LAYERS, check_counts, check_weights
from densevit.set_prediction.mask_matching import MaskWeights
from densevit.set_prediction.mask_predictions import MaskLogits, exported_masks
from densevit.set_prediction.predictions import class_scores, top_scores
from densevit.set_prediction.queries import mask_logits
from densevit_heads.rf_detr.head import COSTS, GroupTransformer, RfDetr
from densevit_heads.rf_detr.instance_criterion import InstanceCriterion
from densevit_heads.rf_detr.mask_branch import MaskBranch


class RfDetrInstance(RfDetr):
    """RF-DETR for instance segmentation: evaluated by box AP unless `evaluation: {name: coco_masks}`.

    Predicted masks are upsampled to the size of the network's input, then resized to the image file; the authors' code
    resizes them once.

    mask_stride: the stride of the masks, which divides the stride of the finest feature.
    mask_weight, dice_weight: weights of the binary cross-entropy and the dice of masks, in costs and in losses.
    The other options: see `RfDetr`.
    """

    needs: ClassVar[tuple[str, ...]] = ("boxes", "labels", "masks")
    criterion: InstanceCriterion

    def __init__(
        self,
        channels: Sequence[int],
        strides: Sequence[int],
        classes: Sequence[Class],
        num_queries: int = 200,
        transformer: GroupTransformer = GroupTransformer(),
        cross_attention_heads: int = 16,
        num_points: int = 2,
        num_groups: int = 13,
        costs: MatchingCosts = COSTS,
        loss_weights: LossWeights = LossWeights(),
        mask_stride: int = 4,
        mask_weight: float = 5.0,
        dice_weight: float = 5.0,
        deterministic: bool = False,
    ) -> None:
        options = (transformer, cross_attention_heads, num_points, num_groups, costs, loss_weights, deterministic)
        super().__init__(channels, strides, classes, num_queries, *options)
        check_counts({"mask_stride": mask_stride}, 1, MAX_LAYERS)
        check_weights({"mask_weight": mask_weight, "dice_weight": dice_weight})
        if strides[0] % mask_stride:
            raise ValueError(
                f"mask_stride is {mask_stride}; the finest feature's stride, {strides[0]}, must be a multiple."
            )
        self.scale = strides[0] // mask_stride
        self.mask_branch = MaskBranch(transformer.width, transformer.decoder_layers)
        weights = MaskWeights(mask=mask_weight, dice=dice_weight)
        self.criterion = InstanceCriterion(
            costs, loss_weights, "iou_aware", mask_stride=mask_stride, mask_weights=weights
        )

    def forward(self, features: list[Tensor], padding_mask: Tensor, targets: list[Targets] | None = None) -> Outputs:
        """The outputs of `RfDetr`, and in evaluation `masks`, logits (B, Q, h, w) of the last layer.

        Also `mask_layers`, the embeddings and per-pixel features of `MaskBranch`.
        """
        maps = [project(x) for project, x in zip(self.projections, features, strict=True)]
        outputs, proposals, states = self.detect(maps, padding_mask)
        size = (self.scale * maps[0].shape[-2], self.scale * maps[0].shape[-1])
        embeddings, pixels = self.mask_branch(maps[0], size, torch.cat([proposals[None], states]))
        if not self.training:
            outputs["masks"] = mask_logits(embeddings[-1], pixels[-1])
        return {**outputs, "mask_layers": (embeddings, pixels)}

    def loss_counts(self, targets: list[Targets]) -> dict[str, float]:
        return super().loss_counts(_with_masks(targets))

    def loss(self, outputs: Outputs, targets: list[Targets], context: LossContext) -> Losses:
        """Also returns `mask` and `dice` of the last layer.

        Points are random in training and the same at each call in evaluation.
        """
        generator = None if self.training else torch.Generator(outputs["logits"].device).manual_seed(0)
        return super().loss({**outputs, "generator": generator}, _with_masks(targets), context)

    @torch.no_grad()
    def predict(self, outputs: Outputs, targets: list[Targets]) -> list[Predictions]:
        """The predictions of `RfDetr`, and their `masks` (N, H, W) bool."""
        predictions = super().predict(outputs, targets)
        return _add_masks(
            predictions, class_scores(outputs["logits"]), outputs["masks"], self.criterion.mask_stride, targets
        )

    @torch.no_grad()
    def predict_exported(self, exported: Mapping[str, Tensor], targets: list[Targets]) -> list[Predictions]:
        """The predictions of `predict` from the outputs of `exported`."""
        predictions = super().predict_exported(exported, targets)
        return _add_masks(predictions, exported["scores"].float(), exported["mask_logits"], 1, targets)

    def exported(
        self, outputs: Outputs, size: tuple[int, int], original_size: tuple[int, int] | None = None
    ) -> dict[str, Tensor]:
        """`boxes` and `scores` as in `RfDetr`, and `mask_logits` (B, Q, H, W), which are positive inside a mask."""
        masks = exported_masks(outputs["masks"], self.criterion.mask_stride, size, original_size)
        return {**super().exported(outputs, size, original_size), "mask_logits": masks}


def _with_masks(targets: list[Targets]) -> list[Targets]:
    """The targets, without the labels of images that lack masks."""
    return [x if "masks" in x else {key: value for key, value in x.items() if key != "labels"} for x in targets]


def _add_masks(
    predictions: list[Predictions], scores: Tensor, masks: Tensor, stride: int, targets: list[Targets]
) -> list[Predictions]:
    """Adds `masks` (Q, H, W) bool at the original size to the predictions of `top_predictions`, in place.

    scores: (B, Q, K). masks: logits (B, Q, h, w) at this stride.
    """
    queries = top_scores(scores)[2]
    for prediction, query, logits, target in zip(predictions, queries, masks.float(), targets, strict=True):
        resized = MaskLogits(logits, stride, sides(target["size"]), sides(target["original_size"])).resized(query)
        prediction["masks"] = torch.cat([x > 0 for _, _, x in resized])
    return predictions
