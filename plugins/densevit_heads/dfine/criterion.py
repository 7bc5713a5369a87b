"""The criterion: set prediction losses, and global optimal localization self-distillation (GO-LSD, section 4.2)."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from densevit.interfaces import Losses, Outputs, Targets
from densevit.layers.precision import autocast_off
from densevit.losses.boxes import overlaps, to_corners
from densevit.losses.context import LossContext
from densevit.losses.distributed import to_device
from densevit.losses.matching import MatchedPairs, Objects, assign
from densevit.losses.matching import costs as matching_costs
from densevit.losses.set_losses import LossWeights, set_losses
from densevit.set_prediction.criterion import SetCriterion
from densevit.set_prediction.labelled import Labelled
from densevit_heads.dfine.distribution import distances_of_boxes, soft_bins, weighting_function
from densevit_heads.dfine.localization_losses import (
    decoupled_mean,
    distribution_distance,
    fine_grained_localization,
)


@dataclass(frozen=True)
class DfineLossWeights(LossWeights):
    """Weights of the loss terms. fgl: fine-grained localization. ddf: decoupled distillation focal loss."""

    fgl: float = 0.15
    ddf: float = 1.5


class LayerOutputs(NamedTuple):
    """Predictions after each of L layers, then those without distributions, M in all.

    logits: (M, B, Q, K). boxes: (M, B, Q, 4) cxcywh. corners: (L, B, Q, 4 * (N + 1)). initial: (B, Q, 4), the boxes
    from which the distributions are offsets.
    """

    logits: Tensor
    boxes: Tensor
    corners: Tensor
    initial: Tensor


class BoxTerms(NamedTuple):
    """Weighted losses of boxes: l1 and giou (M,), fgl (L,), ddf (L - 1,)."""

    l1: Tensor
    giou: Tensor
    fgl: Tensor
    ddf: Tensor


@dataclass
class DfineCriterion(SetCriterion):
    """`SetCriterion` whose boxes learn from the union of the matchings of all layers, with losses of distributions.

    Class scores of a layer learn from the layer's own matching by the varifocal loss. Losses of boxes are divided by
    the number of matches in the union, which depends on predictions: a mean over processes, but not over accumulated
    batches. `num_bins` and `reg_scale` as of `weighting_function`.
    """

    num_bins: int = 32
    reg_scale: float = 4.0
    weights: DfineLossWeights

    def losses(self, outputs: Outputs, targets: list[Targets], context: LossContext) -> Losses:
        """`label`, `l1`, `giou` and `fgl` of the last layer; `auxiliary`, the sum of these over the other layers and
        the initial boxes; `proposals`; `ddf`, the sum over the layers before the last; and `denoising`, all of them of
        denoising queries.

        outputs: `layers`, a `LayerOutputs` of the L layers, the initial boxes and the proposals; in training optionally
        `objects`, and `denoising`, a `LayerOutputs` of R queries (B is 1) of the L layers and the initial boxes, with
        the object of each of the first P of them.
        """
        found: LayerOutputs = outputs["layers"]
        labelled = Labelled.of(targets, found.logits.device, outputs.get("objects"))
        objects = labelled.objects
        [initial] = labelled.select([found.initial])
        logits, boxes, corners = labelled.select(found[:3], dim=1)
        found = LayerOutputs(logits, boxes, corners, initial)
        cost = matching_costs(found.logits, found.boxes, objects, self.costs, softmax=False)
        pairs = assign(cost, objects.counts, objects.names, context.finite_costs)  # on the CPU
        label = self._labels(found, objects, pairs.to(cost.device), context)
        merged = union(pairs).to(cost.device)
        counts = context.mean(_query_counts(found, merged))
        terms = self._boxes(found, objects, merged, context, counts[0], counts, counts.sqrt())

        last = len(found.corners) - 1
        losses = {"label": label[last], "l1": terms.l1[last], "giou": terms.giou[last], "fgl": terms.fgl[last]}
        by_output = label + terms.l1 + terms.giou
        losses["auxiliary"] = by_output[:-1].sum() - by_output[last] + terms.fgl[:-1].sum()
        losses["proposals"] = by_output[-1]
        losses["ddf"] = terms.ddf.sum()
        if self.denoising is not None:
            noised = outputs.get("denoising")  # in training only
            zero = found.logits.new_zeros(())
            losses["denoising"] = zero if noised is None else self._denoising(noised, objects, context, counts.sqrt())
        return losses

    def _labels(
        self,
        found: LayerOutputs,
        objects: Objects,
        pairs: MatchedPairs,
        context: LossContext,
        object_count: Tensor | None = None,
        counts_of: str = "objects",
    ) -> Tensor:
        """The weighted varifocal loss of each output, (M,). object_count, counts_of: the arguments of `set_losses`."""
        terms = set_losses(
            found.logits,
            found.boxes,
            objects,
            pairs,
            context,
            "varifocal_matched",
            object_count=object_count,
            counts_of=counts_of,
        )
        return self.weights.label * terms.label

    def _boxes(
        self,
        found: LayerOutputs,
        objects: Objects,
        pairs: MatchedPairs,
        context: LossContext,
        count: Tensor,
        query_counts: Tensor,
        query_weights: Tensor,
    ) -> BoxTerms:
        """pairs: the same for all layers, (1, M). count: the number of pairs, a mean over processes.

        query_counts, query_weights: the arguments of `decoupled_mean`.
        """
        with autocast_off(found.boxes.device):
            index = (slice(None), pairs.image, pairs.query[0])
            predicted, truth = found.boxes.float()[index], objects.boxes[pairs.target[0]]  # (M, P, 4), (P, 4)
            iou, giou = overlaps(to_corners(predicted), to_corners(truth))  # (M, P)
            corners = found.corners.float().unflatten(-1, (4, -1))  # (L, B, Q, 4, N + 1)
            count = count.clamp(min=context.least_mean())
            quality = iou.detach()[: len(corners)]

            values = weighting_function(self.num_bins, self.reg_scale, corners.device)
            reference = found.initial.detach().float()[index[1:]]
            bins = soft_bins(distances_of_boxes(reference, to_corners(truth), self.reg_scale), values)
            localization = fine_grained_localization(corners[index], bins.expand(len(corners)))  # (L, P)

            teacher = found.logits[len(corners) - 1].detach().float().sigmoid().amax(-1)  # (B, Q)
            weight = teacher.expand(len(corners) - 1, -1, -1).clone()
            weight[index] = quality[:-1]
            distance = weight * distribution_distance(corners[:-1], corners[-1])
            matched = torch.zeros_like(teacher, dtype=torch.bool)
            matched[index[1:]] = matched.new_ones(())  # a Python value would be copied from the CPU, and waited for
            return BoxTerms(
                self.weights.l1 * (predicted - truth).abs().sum((1, 2)) / count,
                self.weights.giou * (1 - giou).sum(1) / count,
                self.weights.fgl * (quality * localization).sum(1) / count,
                self.weights.ddf * decoupled_mean(distance, matched, query_counts, query_weights),
            )

    def _denoising(
        self, noised: tuple[LayerOutputs, Tensor], objects: Objects, context: LossContext, query_weights: Tensor
    ) -> Tensor:
        """The sum of all terms of denoising queries. noised: the argument of `losses`.

        query_weights: the weights of the object queries, as in the authors' code.
        """
        found, target = noised
        count = torch.full((), float(len(target)), device=target.device)
        pairs = MatchedPairs.of_queries(target, len(found.logits))
        label = self._labels(found, objects, pairs, context, count, "denoising")
        of_all_layers = MatchedPairs.of_queries(target, 1)
        [mean_count] = context.mean_counts(denoising=count)
        query_counts = context.mean(_query_counts(found, of_all_layers))
        terms = self._boxes(found, objects, of_all_layers, context, mean_count, query_counts, query_weights)
        return label.sum() + torch.stack([term.sum() for term in terms]).sum()


def union(pairs: MatchedPairs) -> MatchedPairs:
    """The union of the matchings of all layers: each query has the object that most layers match it with.

    Of several objects with equally many layers it has the first one. An object may have several queries.
    pairs: those of all layers, on the CPU. Returns pairs of one layer.
    """
    columns = torch.stack([pairs.image.expand_as(pairs.query), pairs.query, pairs.target]).flatten(1)
    unique, votes = np.unique(columns.numpy(), axis=1, return_counts=True)  # sorted by column
    order = np.lexsort((-votes, unique[1], unique[0]))  # stable: of equal votes the first object
    image, query, target = torch.from_numpy(unique[:, order])
    first = torch.ones(len(image), dtype=torch.bool)
    first[1:] = (image[1:] != image[:-1]) | (query[1:] != query[:-1])
    return MatchedPairs(image[first], query[first][None], target[first][None])


def _query_counts(found: LayerOutputs, pairs: MatchedPairs) -> Tensor:
    """The numbers of matched and of other queries, (2,). pairs: those of one layer."""
    positives, queries = len(pairs.image), found.initial.shape[:2].numel()
    counts = torch.tensor([positives, queries - positives], dtype=torch.float32)
    return to_device(counts, found.logits.device)
