"""GTR with masks (Feng et al. 2026): RF-DETR's mask branch on the finest level, a block for each decoder layer."""

from collections.abc import Sequence

import torch
from torch import Tensor

from densevit.interfaces import Class, Outputs, Targets
from densevit.losses.matching import MatchingCosts
from densevit.set_prediction.queries import mask_logits
from densevit_heads.gtr.head import Gtr, GtrTransformer
from densevit_heads.gtr.instance_criterion import GroupedInstanceCriterion
from densevit_heads.parts.distributions.criterion import DfineLossWeights
from densevit_heads.parts.instance_masks import InstanceMaskHead, with_masks


class GtrInstance(InstanceMaskHead, Gtr):
    """GTR for instance segmentation: evaluated by box AP unless `evaluation: {name: coco_masks}`.

    Matching and losses compare masks, too, as in RF-DETR. The boxes of the selected cells have no masks; the boxes of
    the first layer before refinement have the masks of this layer.

    mask_stride: the stride of the masks, which divides the stride of the finest feature.
    mask_weight, dice_weight: weights of the binary cross-entropy and the dice of masks, in costs and in losses.
    The other options: see `Gtr`.
    """

    criterion: GroupedInstanceCriterion

    def __init__(
        self,
        channels: Sequence[int],
        strides: Sequence[int],
        classes: Sequence[Class],
        num_queries: int = 300,
        transformer: GtrTransformer = GtrTransformer(),
        num_points: int | tuple[int, ...] = 4,
        num_bins: int = 32,
        reg_scale: float = 4.0,
        num_groups: int = 3,
        contrastive_denoising: int = 100,
        costs: MatchingCosts = MatchingCosts(label=2.0, l1=1.0, giou=1.0),
        loss_weights: DfineLossWeights = DfineLossWeights(label=2.0, l1=1.0, giou=1.0),
        mask_stride: int = 4,
        mask_weight: float = 5.0,
        dice_weight: float = 5.0,
        deterministic: bool = False,
    ) -> None:
        options = (num_points, num_bins, reg_scale, num_groups, contrastive_denoising, costs, loss_weights)
        super().__init__(channels, strides, classes, num_queries, transformer, *options, deterministic)
        weights = self.add_mask_branch(
            strides[0], mask_stride, transformer.width, transformer.decoder_layers, mask_weight, dice_weight
        )
        self.criterion = GroupedInstanceCriterion(
            costs,
            loss_weights,
            "mal",
            denoising=self.denoising,
            num_bins=num_bins,
            reg_scale=reg_scale,
            mask_stride=mask_stride,
            mask_weights=weights,
        )

    def forward(self, features: list[Tensor], padding_mask: Tensor, targets: list[Targets] | None = None) -> Outputs:
        """The outputs of `Gtr`, and in evaluation `masks`, logits (B, Q, h, w) of the last layer.

        Also `mask_layers`: embeddings (L, G * B, D + Q, C) and L per-pixel features (B, C, h, w) (`MaskBranch`).
        """
        outputs, refined, finest = self.detect_in_groups(features, padding_mask, targets and with_masks(targets))
        embeddings, pixels = self.embed(finest, torch.stack(refined.states))
        if not self.training:
            outputs["masks"] = mask_logits(embeddings[-1], pixels[-1])
        return {**outputs, "mask_layers": (embeddings, pixels[1:])}
