"""RF-DETR with masks."""

from collections.abc import Sequence

import torch
from torch import Tensor

from densevit.interfaces import Class, Outputs, Targets
from densevit.losses.matching import MatchingCosts
from densevit.losses.set_losses import LossWeights
from densevit.set_prediction.queries import mask_logits
from densevit_heads.parts.instance_masks import InstanceMaskHead
from densevit_heads.rf_detr.head import COSTS, GroupTransformer, RfDetr
from densevit_heads.rf_detr.instance_criterion import InstanceCriterion


class RfDetrInstance(InstanceMaskHead, RfDetr):
    """RF-DETR for instance segmentation: evaluated by box AP unless `evaluation: {name: coco_masks}`.

    mask_stride: the stride of the masks, which divides the stride of the finest feature.
    mask_weight, dice_weight: weights of the binary cross-entropy and the dice of masks, in costs and in losses.
    The other options: see `RfDetr`.
    """

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
        weights = self.add_mask_branch(
            strides[0], mask_stride, transformer.width, transformer.decoder_layers, mask_weight, dice_weight
        )
        self.criterion = InstanceCriterion(
            costs, loss_weights, "iou_aware", mask_stride=mask_stride, mask_weights=weights
        )

    def forward(self, features: list[Tensor], padding_mask: Tensor, targets: list[Targets] | None = None) -> Outputs:
        """The outputs of `RfDetr`, and in evaluation `masks`, logits (B, Q, h, w) of the last layer.

        Also `mask_layers`, the embeddings and per-pixel features of `MaskBranch`.
        """
        maps = [project(x) for project, x in zip(self.projections, features, strict=True)]
        outputs, proposals, states = self.detect(maps, padding_mask)
        embeddings, pixels = self.embed(maps[0], torch.cat([proposals[None], states]))
        if not self.training:
            outputs["masks"] = mask_logits(embeddings[-1], pixels[-1])
        return {**outputs, "mask_layers": (embeddings, pixels)}
