"""The criterion: set prediction losses, and global optimal localization self-distillation (GO-LSD, section 4.2)."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from densevit.interfaces import Losses, Outputs, Targets
from densevit.layers.precision import autocast_off
from densevit.losses.boxes import has_objects, overlaps, to_corners
from densevit.losses.classification import labelled_logits, with_label_weights
from densevit.losses.context import LossContext
from densevit.losses.distributed import to_device
from densevit.losses.matching import MatchedPairs, Objects, assign, matching_costs
from densevit.losses.set_losses import BINARY_LOSSES, MIN_QUALITY, LossWeights
from densevit.set_prediction.criterion import SetCriterion
from densevit.set_prediction.denoising import DenoisingQueries
from densevit_heads.parts.distributions.distribution import distances_of_boxes, soft_bins, weighting_function
from densevit_heads.parts.distributions.localization_losses import (
    decoupled_shares,
    distribution_distance,
    fine_grained_localization,
)


@dataclass(frozen=True)
class DfineLossWeights(LossWeights):
    """Weights of the loss terms. fgl: fine-grained localization. ddf: decoupled distillation focal loss."""

    fgl: float = 0.15
    ddf: float = 1.5


class LayerOutputs(NamedTuple):
    """Predictions after each of L layers, then predictions without distributions, M in all.

    logits: (M, B, D + Q, K), of D denoising queries, then Q object queries. boxes: (M, B, D + Q, 4) cxcywh. corners:
    (L, B, D + Q, 4 * (N + 1)). initial: (B, D + Q, 4), the boxes from which the distributions are offsets.
    """

    logits: Tensor
    boxes: Tensor
    corners: Tensor
    initial: Tensor


class DistributionPairs(NamedTuple):
    """Pairs of queries and objects in each of M outputs, (M, R + P + U) each.

    R pairs come from the output's matching, P from denoising queries and U from the union of the matchings. Classes
    learn from the first R + P, boxes from the last P + U, which are the same in all outputs. matched, noised, union: R,
    P and U.
    """

    image: Tensor
    query: Tensor
    target: Tensor
    matched: int
    noised: int
    union: int

    @property
    def box_index(self) -> tuple[Tensor, Tensor]:
        """Image and query of the P + U pairs from which boxes learn."""
        return self.image[0, self.matched :], self.query[0, self.matched :]


class QueryKinds(NamedTuple):
    """What each of the D + Q queries of B images learns from.

    denoising: (D + Q,) bool, the first D. counted: (B, D + Q) bool, queries of labelled images and denoising queries
    that are not padding. matched: (B, D + Q) bool, queries with an object of the union or to reconstruct. numbers: the
    numbers K_m of matched and K_u of other queries, of denoising and of object queries, (2, 2): means over processes.
    """

    denoising: Tensor
    counted: Tensor
    matched: Tensor
    numbers: Tensor

    @classmethod
    def of(
        cls, labelled: Tensor, noised: DenoisingQueries, pairs: DistributionPairs, queries: int, context: LossContext
    ) -> "QueryKinds":
        """labelled: (B,) bool, on the CPU. queries: D + Q."""
        device, D = pairs.image.device, noised.contents.shape[1]
        unmatched = int(labelled.sum()) * (queries - D) - pairs.union
        numbers = [[pairs.noised, len(noised.image) - pairs.noised], [pairs.union, unmatched]]
        denoising = torch.arange(queries, device=device) < D
        true = labelled.new_ones((), device=device)  # a Python value would be copied from the CPU, and waited for
        counted = to_device(labelled, device)[:, None] & ~denoising
        counted[noised.image, noised.query] = true
        matched = torch.zeros_like(counted)
        matched[pairs.box_index] = true
        means = context.mean(to_device(torch.tensor(numbers, dtype=torch.float32), device))
        return cls(denoising, counted, matched, means)

    def distillation_shares(self) -> Tensor:
        """The factors (B, D + Q) of the distillation: of a matched query sqrt(K_m) / (sqrt(K_m) + sqrt(K_u)) / K_m, of
        another one sqrt(K_u) / (sqrt(K_m) + sqrt(K_u)) / K_u (section 4.2; IoU_k and Conf_k are in the terms). The
        roots are of the object queries' numbers, also for denoising queries, as in the authors' code.
        """
        _, object_numbers = self.numbers
        denoising, objects = decoupled_shares(self.numbers, object_numbers.sqrt())
        matched, other = torch.where(self.denoising[:, None], denoising, objects).unbind(-1)  # (D + Q,) each
        return self.counted * torch.where(self.matched, matched, other)


@dataclass
class DfineCriterion(SetCriterion):
    """`SetCriterion` whose boxes learn from the union of the matchings of all layers, with losses of distributions.

    Class scores of a layer learn from the layer's matching, in D-FINE by the varifocal loss. Losses of boxes are
    divided by the number of matches in the union, which depends on predictions: a mean over processes, but not over
    accumulated batches. num_bins, reg_scale: the arguments of `weighting_function`.
    """

    num_bins: int = 32
    reg_scale: float = 4.0
    weights: DfineLossWeights = DfineLossWeights()

    def losses(self, outputs: Outputs, targets: list[Targets], context: LossContext) -> Losses:
        """`label`, `l1`, `giou` and `fgl` of the last layer; `auxiliary`, the sum of these over the other layers and
        the initial boxes; `proposals`; `ddf`, the sum over the layers before the last; and `denoising`, the sum of all
        terms of denoising queries.

        outputs: `layers`, a `LayerOutputs` of the L layers, the initial boxes and the proposals, of which denoising
        queries have none; in training optionally `objects`, and `denoising`, the denoising queries. `pairs`: the result
        of `match`, if already computed.
        """
        layers, objects, noised = outputs["layers"], outputs.get("objects"), outputs.get("denoising")
        objects = Objects.of(targets, layers.logits.device) if objects is None else objects
        noised = DenoisingQueries.none(layers.initial) if noised is None else noised
        D = noised.contents.shape[1]
        with autocast_off(layers.logits.device):
            layers = LayerOutputs(*(x.float() for x in layers))
            matched = outputs.get("pairs")
            if matched is None:
                queries = {"layers": (layers.logits[:, :, D:], layers.boxes[:, :, D:])}
                matched = self.match(queries, objects, context.raise_on_non_finite)
            pairs = _all_pairs(matched, noised, layers.initial.device)
            labelled = torch.tensor([has_objects(target) for target in targets])
            kinds = QueryKinds.of(labelled, noised, pairs, layers.initial.shape[1], context)
            shares = {**_class_and_box_shares(objects, kinds, pairs, context), "ddf": kinds.distillation_shares()}
            terms, denoising = {}, []
            for name, values in self._terms(layers, objects, pairs).items():
                values = values * (getattr(self.weights, name) * shares[name])
                count = pairs.noised if values.ndim == 2 else D
                noised_values, object_values = values.split([count, values.shape[-1] - count], dim=-1)
                denoising.append(noised_values[: len(layers.logits) - 1].sum())
                terms[name] = object_values.sum(tuple(range(1, values.ndim)))
        losses = self._by_name(terms, *self.proposal_boxes(terms, layers, objects, pairs, shares["label"]))
        return losses if self.denoising is None else {**losses, "denoising": torch.stack(denoising).sum()}

    @staticmethod
    def _by_name(terms: Losses, proposal_l1: Tensor, proposal_giou: Tensor) -> Losses:
        """The losses except `denoising`. terms: weighted, (M,), (L,) of `fgl` and (L - 1,) of `ddf`."""
        last = len(terms["fgl"]) - 1
        losses = {name: terms[name][last] for name in ("label", "l1", "giou", "fgl")}
        by_output = terms["label"] + terms["l1"] + terms["giou"]
        losses["auxiliary"] = by_output[:-1].sum() - by_output[last] + terms["fgl"][:-1].sum()
        losses["proposals"] = terms["label"][-1] + proposal_l1 + proposal_giou
        losses["ddf"] = terms["ddf"].sum()
        return losses

    def match(self, outputs: Outputs, objects: Objects, strict: bool) -> MatchedPairs:
        """Bipartite matching of the object queries in all M outputs; pairs on the CPU. See `SetCriterion.match`."""
        logits, boxes = outputs["layers"]
        cost = matching_costs(logits, boxes, objects, self.costs, softmax=False)
        return assign(cost, objects.counts, objects.names, strict)

    def proposal_boxes(
        self, terms: Losses, layers: LayerOutputs, objects: Objects, pairs: DistributionPairs, shares: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The weighted L1 and GIoU losses of the proposals. terms: the weighted terms, (M,) each. shares: the factor of
        each query in the class loss, (B, D + Q)."""
        return terms["l1"][-1], terms["giou"][-1]

    def _terms(self, layers: LayerOutputs, objects: Objects, pairs: DistributionPairs) -> Losses:
        """`label` of each query, (M, B, D + Q), `l1` and `giou` of each pair, (M, P + U), `fgl` of each, (L, P + U),
        and `ddf` of each query, (L - 1, B, D + Q).
        """
        layer = torch.arange(len(layers.logits), device=layers.logits.device)[:, None]
        predicted, truth = layers.boxes[layer, pairs.image, pairs.query], objects.boxes[pairs.target]
        iou, giou = overlaps(to_corners(predicted), to_corners(truth))
        quality = iou.detach()

        class_pairs = slice(pairs.matched + pairs.noised)
        image, query, target = (x[:, class_pairs] for x in (pairs.image, pairs.query, pairs.target))
        classes = torch.zeros_like(layers.logits)
        least = MIN_QUALITY["varifocal_matched"]
        index = layer, image, query, objects.labels[target]
        classes[index] = quality[:, class_pairs].clamp(min=least)
        weights = None if objects.label_weights is None else objects.label_weights[target]

        layers = layers._replace(logits=labelled_logits(layers.logits, classes, objects.labelled))

        box_pairs = slice(pairs.matched, None)
        truth = truth[0, box_pairs]  # the same in all outputs
        return {
            "label": with_label_weights(BINARY_LOSSES[self.classification](layers.logits, classes), index, weights).sum(
                -1
            ),
            "l1": (predicted[:, box_pairs] - truth).abs().sum(-1),
            "giou": 1 - giou[:, box_pairs],
            **self._distribution_terms(layers, pairs.box_index, truth, quality[: len(layers.corners), box_pairs]),
        }

    def _distribution_terms(
        self, layers: LayerOutputs, index: tuple[Tensor, Tensor], truth: Tensor, iou: Tensor
    ) -> Losses:
        """`fgl`, IoU_k times the fine-grained localization loss of a pair, and `ddf`, the Kullback-Leibler divergence
        of a layer's distributions from the last layer's, times IoU_k of a matched query and Conf_k of another one.

        index: image and query of the P + U pairs. truth: their boxes (P + U, 4). iou: (L, P + U).
        """
        corners = layers.corners.unflatten(-1, (4, -1))  # (L, B, D + Q, 4, N + 1)
        distances = distances_of_boxes(layers.initial.detach()[index], to_corners(truth), self.reg_scale)
        bins = soft_bins(distances, weighting_function(self.num_bins, self.reg_scale, corners.device))
        every_layer = (slice(None), *index)
        localization = fine_grained_localization(corners[every_layer], bins.expand(len(corners)))
        conf = layers.logits[len(corners) - 1].detach().sigmoid().amax(-1)  # of the last layer
        weight = conf.repeat(len(corners) - 1, 1, 1)
        weight[every_layer] = iou[:-1]
        return {"fgl": iou * localization, "ddf": weight * distribution_distance(corners[:-1], corners[-1])}


def _class_and_box_shares(
    objects: Objects, kinds: QueryKinds, pairs: DistributionPairs, context: LossContext
) -> Losses:
    """The factors of each query in the class loss, (B, D + Q), and of each pair in the losses of boxes, (P + U,).

    1 / the number of positive denoising queries for these, and for object queries 1 / the number of objects (classes)
    or of matched queries in the union (boxes).
    """
    device, least = kinds.denoising.device, context.min_normalizer()
    [noised] = context.mean_counts(denoising=torch.full((), float(pairs.noised), device=device))
    [matched] = context.mean_counts(objects=torch.full((), float(len(objects.labels)), device=device))
    _, (union, _) = kinds.numbers
    noised, matched, union = (count.clamp(min=least) for count in (noised, matched, union))
    is_noised = torch.arange(pairs.noised + pairs.union, device=device) < pairs.noised
    by_pair = 1 / torch.where(is_noised, noised, union)
    by_query = kinds.counted / torch.where(kinds.denoising, noised, matched)
    return {"label": by_query, **dict.fromkeys(("l1", "giou", "fgl"), by_pair)}


def _all_pairs(matched: MatchedPairs, noised: DenoisingQueries, device: torch.device) -> DistributionPairs:
    """matched: the pairs of object queries in all M outputs, on the CPU."""
    D, P, M = noised.contents.shape[1], len(noised.target), len(matched.query)
    merged = union(matched)
    noised_rows = torch.stack([noised.image[:P], noised.query[:P], noised.target])[:, None]
    parts = [to_device(_rows(matched, D), device), noised_rows, to_device(_rows(merged, D), device)]
    image, query, target = torch.cat([part.expand(-1, M, -1) for part in parts], dim=2)
    return DistributionPairs(image, query, target, matched.query.shape[1], P, len(merged.image))


def union(pairs: MatchedPairs) -> MatchedPairs:
    """The union of the matchings of all layers: each query has the object that most layers match it with.

    In a tie the first object. An object may have several queries. pairs: the pairs of all layers, on the CPU. Returns
    pairs of one layer.
    """
    unique, votes = np.unique(_rows(pairs).flatten(1).numpy(), axis=1, return_counts=True)  # sorted by column
    order = np.lexsort((-votes, unique[1], unique[0]))  # stable: of equal votes the first object
    image, query, target = torch.from_numpy(unique[:, order])
    first = torch.ones(len(image), dtype=torch.bool)
    first[1:] = (image[1:] != image[:-1]) | (query[1:] != query[:-1])
    return MatchedPairs(image[first], query[first][None], target[first][None])


def _rows(pairs: MatchedPairs, first: int = 0) -> Tensor:
    """Images, queries and objects of pairs, (3, L, M). first: the index of the first object query."""
    return torch.stack([pairs.image.expand_as(pairs.query), pairs.query + first, pairs.target])
