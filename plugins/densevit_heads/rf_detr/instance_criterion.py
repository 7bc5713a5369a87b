"""The criterion with masks, compared at points in matching and losses, as in Mask2Former."""

from dataclasses import dataclass, field

import torch

from densevit.interfaces import LossContext, Losses, Outputs, Targets
from densevit.layers.precision import autocast_off
from densevit.losses.boxes import has_objects
from densevit.losses.labelled_objects import LabelledObjects
from densevit.losses.matching import MatchedPairs, assign, matching_costs
from densevit.set_prediction.mask_matching import MaskWeights
from densevit_heads.parts.point_masks import PointMasks
from densevit_heads.rf_detr.group_criterion import GroupCriterion, over_groups


@dataclass
class InstanceCriterion(GroupCriterion):
    """`GroupCriterion` with the binary cross-entropy and dice of masks, as costs of the matching and as losses.

    mask_stride: the stride of the masks. mask_weights: the weights of both terms, as costs and as losses; its `label`
    is not used.
    """

    mask_stride: int = 4
    mask_weights: MaskWeights = field(default_factory=MaskWeights)

    def terms(
        self, outputs: Outputs, targets: list[Targets], labelled: LabelledObjects, context: LossContext
    ) -> Losses:
        """The weighted losses (1 + L,), by name.

        outputs: also `mask_layers`, embeddings (1 + L, B, G * Q, C) and 1 + L per-pixel features (B, C, h, w), and
        `generator`, of random points; None: torch's.
        """
        logits, boxes, groups = self.groups_as_layers(outputs, labelled)
        objects, pairs = labelled.objects, None
        chosen = [target for target in targets if has_objects(target)]
        embeddings, pixels = outputs["mask_layers"]
        with autocast_off(logits.device):
            [embeddings] = labelled.select([embeddings.float()], dim=1)
            pixels = torch.stack(labelled.select(pixels)).float()
            [count] = context.mean_counts(objects=torch.full((), float(len(objects.labels)), device=logits.device))
            if not chosen:  # sums over nothing, which are connected to the graph
                masks = (embeddings.sum((1, 2, 3)) + pixels.sum((1, 2, 3, 4))).expand(2, -1)
            else:
                points = PointMasks.of(chosen, pixels, self.mask_stride, outputs["generator"], "border")
                cost = matching_costs(logits, boxes, objects, self.costs, softmax=False)  # ((1 + L) * G, T, Q)
                mask_cost = points.costs(embeddings, self.mask_weights)  # (1 + L, T, G * Q)
                cost = cost + mask_cost.unflatten(2, (groups, -1)).transpose(1, 2).flatten(0, 1)
                pairs = assign(cost, objects.counts, objects.names, context.raise_on_non_finite)  # on the CPU
                masks = points.losses(embeddings, join_groups(pairs, groups, logits.shape[2]))  # (2, 1 + L)
                pairs = pairs.to(logits.device)
        terms = over_groups(self.losses_per_layer(logits, boxes, objects, context, pairs), groups)
        mask, dice = masks / (groups * count.clamp(min=context.min_normalizer()))
        return {**terms, "mask": self.mask_weights.mask * mask, "dice": self.mask_weights.dice * dice}


def join_groups(pairs: MatchedPairs, groups: int, num_queries: int) -> MatchedPairs:
    """Joins the groups of a layer, which are layers of `pairs`: queries are numbered on from group to group."""
    query = pairs.query.unflatten(0, (-1, groups)) + num_queries * torch.arange(groups)[:, None]  # (1 + L, G, M)
    image, order = pairs.image.repeat(groups).sort(stable=True)
    return MatchedPairs(image, query.flatten(1)[:, order], pairs.target.view(len(query), -1)[:, order])
