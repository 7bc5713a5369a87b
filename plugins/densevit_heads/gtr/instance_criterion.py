"""The criterion of GTR with masks, compared at points in matching and losses, as in RF-DETR.

Letters: B images, b of them with labels, T objects, G groups, D denoising and Q object queries, L layers. D-FINE's
criterion numbers images from group to group, 0 ... G * B - 1, and masks are of the b images, whose queries are numbered
from group to group, 0 ... G * (D + Q) - 1.
"""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from densevit.interfaces import LossContext, Losses, Outputs, Targets
from densevit.layers.precision import autocast_off
from densevit.losses.boxes import has_objects
from densevit.losses.distributed import to_device
from densevit.losses.matching import MatchedPairs, Objects, assign, matching_costs
from densevit.set_prediction.denoising import DenoisingQueries
from densevit.set_prediction.mask_matching import MaskWeights
from densevit_heads.gtr.criterion import GroupedDfineCriterion, groups_of
from densevit_heads.parts.point_masks import PointMasks


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
        images = [i for i, target in enumerate(targets) if has_objects(target)]
        with autocast_off(outputs["layers"].initial.device):
            embeddings, pixels = _labelled_masks(outputs, targets, images)
            if not images:  # sums over nothing, which are connected to the graph
                nothing = embeddings.sum() + pixels.sum()
                return {**super().losses(outputs, targets, context), "mask": nothing, "dice": nothing}
            chosen = [targets[i] for i in images]
            points = PointMasks.of(chosen, pixels, self.mask_stride, outputs["generator"], "zeros")
            outputs = self._matched(outputs, targets, context, embeddings, points)
            losses = super().losses(outputs, targets, context)
            return losses | self._mask_losses(losses, outputs, images, context, embeddings, points)

    def _matched(
        self, outputs: Outputs, targets: list[Targets], context: LossContext, embeddings: Tensor, points: PointMasks
    ) -> Outputs:
        """The outputs with `objects`, `denoising`, and `pairs`, matched by classes, boxes and masks; the proposals,
        which have no masks, by classes and boxes."""
        layers, G = outputs["layers"], embeddings.shape[2]
        objects = outputs.get("objects") or Objects.of(targets * G, layers.initial.device)
        noised = outputs.get("denoising") or DenoisingQueries.none(layers.initial)
        D = noised.contents.shape[1]
        cost = matching_costs(
            layers.logits[:, :, D:].float(), layers.boxes[:, :, D:].float(), objects, self.costs, False
        )
        mask_cost = points.costs(embeddings[:, :, :, D:].flatten(2, 3), self.mask_weights)  # (1 + L, T, G * Q)
        mask_cost = mask_cost.unflatten(2, (G, -1)).transpose(1, 2).flatten(1, 2)  # (1 + L, G * T, Q)
        cost = torch.cat([cost[:-1] + mask_cost, cost[-1:]])
        pairs = assign(cost, objects.counts, objects.names, context.raise_on_non_finite)
        return {**outputs, "objects": objects, "denoising": noised, "pairs": pairs}

    def _mask_losses(
        self,
        losses: Losses,
        outputs: Outputs,
        images: list[int],
        context: LossContext,
        embeddings: Tensor,
        points: PointMasks,
    ) -> Losses:
        """`mask` and `dice`, and `auxiliary` and `denoising` with those of other layers and of denoising queries.

        losses: the other losses.
        """
        pairs, noised, device = outputs["pairs"], outputs["denoising"], embeddings.device
        D, P = noised.contents.shape[1], len(noised.target)
        numbering = _Numbering(len(outputs["layers"].initial) // embeddings.shape[2], images, embeddings.shape[3])
        embeddings, weights = embeddings.flatten(2, 3), to_device(torch.tensor(self.mask_weights[1:]), device)

        def weighted(image: Tensor, query: Tensor, target: Tensor, count: Tensor) -> Tensor:
            """Losses (2, 1 + L) of the pairs of D-FINE's criterion. count: their number, over the step."""
            joined = numbering.renumbered(image, query, target, len(points.segments.labels))
            return points.losses(embeddings, joined) * weights[:, None] / count.clamp(min=context.min_normalizer())

        [count] = context.mean_counts(objects=torch.full((), float(len(outputs["objects"].labels)), device=device))
        matched = weighted(pairs.image, pairs.query[:-1] + D, pairs.target[:-1], count)
        *_, last, _ = matched.unbind(1)  # the last column: of the first layer's boxes before refinement
        terms = {"mask": last[0], "dice": last[1], "auxiliary": losses["auxiliary"] + matched.sum() - last[0] - last[1]}
        if self.denoising is not None and P:
            image, target = _denoised(outputs["objects"].counts, P)
            [count] = context.mean_counts(denoising=torch.full((), float(P), device=device))
            query, target = (x.expand(matched.shape[1], -1) for x in (noised.query[:P], target))
            terms["denoising"] = losses["denoising"] + weighted(image, query, target, count).sum()
        return terms


def _labelled_masks(outputs: Outputs, targets: list[Targets], images: list[int]) -> tuple[Tensor, Tensor]:
    """Embeddings (1 + L, b, G, D + Q, C) and per-pixel features (1 + L, b, C, h, w) of the images `images`, in fp32: of
    the L layers, then again of the first, for its boxes before refinement."""
    embeddings, pixels = outputs["mask_layers"]
    index = to_device(torch.tensor(images, dtype=torch.long), embeddings.device)
    grouped = embeddings.float().unflatten(1, (groups_of(outputs, targets), -1))  # (L, G, B, D + Q, C)
    grouped = grouped.index_select(2, index).transpose(1, 2)
    every = torch.stack([*pixels, pixels[0]]).float().index_select(1, index)
    return torch.cat([grouped, grouped[:1]]), every


def _denoised(counts: list[int], P: int) -> tuple[Tensor, Tensor]:
    """The image and the object of P denoising queries, (P,) each, on the CPU: each group has one of each object.

    counts: objects per image.
    """
    image = torch.repeat_interleave(torch.tensor(counts))
    groups = P // len(image)
    return image.repeat(groups), torch.arange(len(image)).repeat(groups)


@dataclass
class _Numbering:
    """Both ways to number images and queries. B: the number of images. images: those with labels. rows: D + Q."""

    B: int
    images: list[int]
    rows: int

    def renumbered(self, image: Tensor, query: Tensor, target: Tensor, T: int) -> MatchedPairs:
        """Renumbers pairs of D-FINE's criterion. image: (M,), of G * B. query, target: (1 + L, M), of D + Q and G * T.

        All are on the CPU, and `query` may be on a device. Returns pairs in the order of images.
        """
        group, image = image // self.B, image % self.B
        position = torch.full((self.B,), -1)
        position[self.images] = torch.arange(len(self.images))
        order = image.argsort(stable=True)
        query = (query + to_device(group * self.rows, query.device))[:, to_device(order, query.device)]
        return MatchedPairs(position[image][order], query, (target % T)[:, order])
