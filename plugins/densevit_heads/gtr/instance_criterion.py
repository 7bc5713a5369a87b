"""The criterion of GTR with masks, compared at points in matching and losses, as in RF-DETR."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from densevit.interfaces import LossContext, Losses, Outputs, Targets
from densevit.layers.precision import autocast_off
from densevit.losses.boxes import has_objects
from densevit.losses.distributed import to_device
from densevit.losses.matching import MatchedPairs, Objects, assign, matching_costs
from densevit.set_prediction.denoising import DenoisingQueries
from densevit.set_prediction.mask_criterion import image_shares, mask_losses
from densevit.set_prediction.mask_matching import MaskWeights, mask_costs
from densevit_heads.gtr.criterion import GroupedDfineCriterion, groups_of
from densevit_heads.rf_detr.instance_criterion import POINT_RATIO, NearestSegments


@dataclass
class GroupedInstanceCriterion(GroupedDfineCriterion):
    """`GroupedDfineCriterion` with the binary cross-entropy and dice of masks, as costs of the matching and as losses.

    The masks of a layer learn from its own matching. mask_stride: the stride of the masks. mask_weights: the weights of
    both terms, as costs and as losses; its `label` is not used.
    """

    mask_stride: int = 4
    mask_weights: MaskWeights = field(default_factory=MaskWeights)

    def losses(self, outputs: Outputs, targets: list[Targets], context: LossContext) -> Losses:
        """Also `mask` and `dice` of the last layer; those of other layers and of denoising queries are in `auxiliary`
        and `denoising`.

        outputs: also `mask_layers`, embeddings (L, G * B, D + Q, C) and L per-pixel features (B, C, h, w), and
        `generator`, of random points; None: torch's.
        """
        groups, layers = groups_of(outputs, targets), outputs["layers"]
        chosen = [i for i, target in enumerate(targets) if has_objects(target)]
        embeddings, pixels = outputs["mask_layers"]
        index = to_device(torch.tensor(chosen, dtype=torch.long), layers.initial.device)
        with autocast_off(layers.initial.device):
            embeddings = embeddings.float().unflatten(1, (groups, -1)).index_select(2, index).transpose(1, 2)
            embeddings = torch.cat([embeddings, embeddings[:1]])  # (1 + L, b, G, D + Q, C), b labelled images
            pixels = torch.stack([*pixels, pixels[0]]).float().index_select(1, index)
            if not chosen:  # sums over nothing, which are connected to the graph
                nothing = embeddings.sum() + pixels.sum()
                return {**super().losses(outputs, targets, context), "mask": nothing, "dice": nothing}
            return self._losses(outputs, targets, context, chosen, embeddings, pixels)

    def _losses(
        self,
        outputs: Outputs,
        targets: list[Targets],
        context: LossContext,
        chosen: list[int],
        embeddings: Tensor,
        pixels: Tensor,
    ) -> Losses:
        """The losses of at least one labelled image. chosen: the indices of these images.

        embeddings: (1 + L, b, G, D + Q, C), pixels: (1 + L, b, C, h, w), of the L layers, then of the first again.
        """
        layers, generator, device = outputs["layers"], outputs["generator"], pixels.device
        groups, images, rows = embeddings.shape[2], len(targets), embeddings.shape[3]
        objects = outputs.get("objects") or Objects.of(targets * groups, device)
        noised = outputs.get("denoising") or DenoisingQueries.none(layers.initial)
        D, P = noised.contents.shape[1], len(noised.target)
        segments = NearestSegments.of([targets[i] for i in chosen], "instance", 0, device)
        scales = image_shares(segments.sizes, pixels, self.mask_stride)
        height, width = (-(-max(sides) // self.mask_stride) for sides in zip(*segments.sizes, strict=True))
        num_points = max(1, height * width // POINT_RATIO)

        cost = matching_costs(
            layers.logits[:, :, D:].float(), layers.boxes[:, :, D:].float(), objects, self.costs, False
        )
        candidates = embeddings[:, :, :, D:].flatten(2, 3)
        mask_cost = mask_costs(candidates, pixels, segments, scales, num_points, self.mask_weights, generator)
        by_group = mask_cost.unflatten(2, (groups, -1)).transpose(1, 2).flatten(1, 2)  # (1 + L, G * T, Q)
        pairs = assign(
            torch.cat([cost[:-1] + by_group, cost[-1:]]), objects.counts, objects.names, context.raise_on_non_finite
        )
        losses = super().losses({**outputs, "objects": objects, "pairs": pairs}, targets, context)

        position = torch.full((images,), -1)
        position[chosen] = torch.arange(len(chosen))
        embeddings, T = embeddings.flatten(2, 3), len(segments.labels)
        weights = to_device(torch.tensor(self.mask_weights[1:]), device)
        num_points = max(height, num_points)

        def masks(image: Tensor, query: Tensor, target: Tensor, count: Tensor) -> Tensor:
            """Losses (2, 1 + L) of pairs. image: (M,), of the G * B images. query, target: (1 + L, M)."""
            order = (image % images).argsort(stable=True)
            query = (query + image // images * rows)[:, order]
            joined = MatchedPairs(position[image % images][order], query, (target % T)[:, order])
            terms = mask_losses(embeddings, pixels, segments, scales, joined, num_points, generator)
            return terms * weights[:, None] / count

        [count] = context.mean_counts(objects=torch.full((), float(len(objects.labels)), device=device))
        matched = masks(pairs.image, pairs.query[:-1] + D, pairs.target[:-1], count.clamp(min=context.min_normalizer()))
        last = matched.shape[1] - 2
        mask, dice = matched[:, last]
        losses["auxiliary"] = losses["auxiliary"] + matched.sum() - mask - dice
        if self.denoising is not None and P:
            image, query, target = torch.stack([noised.image[:P], noised.query[:P], noised.target]).cpu()
            [count] = context.mean_counts(denoising=torch.full((), float(P), device=device))
            query, target = (x.expand(last + 2, -1) for x in (query, target))
            noised_masks = masks(image, query, target, count.clamp(min=context.min_normalizer()))
            losses["denoising"] = losses["denoising"] + noised_masks.sum()
        return {**losses, "mask": mask, "dice": dice}
