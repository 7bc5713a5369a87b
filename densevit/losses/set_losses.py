"""Losses of matched predictions (DETR, Carion et al. 2020, section 3.1 and A.2), for all decoder layers at once."""

from collections.abc import Callable
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from densevit.layers.precision import autocast_off
from densevit.losses.boxes import overlaps, to_corners
from densevit.losses.classification import (
    focal,
    iou_aware,
    labelled_logits,
    matchability_aware,
    varifocal,
    with_label_weights,
)
from densevit.losses.context import LossContext
from densevit.losses.matching import MatchedPairs, Objects, TermWeights

Classification = Literal["focal", "varifocal", "varifocal_matched", "mal", "iou_aware"]
BINARY_LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "focal": focal,
    "varifocal": varifocal,
    "varifocal_matched": varifocal,
    "mal": matchability_aware,
    "iou_aware": iou_aware,
}
# The lower bound of the IoU of a matched prediction. With RT-DETR's bound, a prediction that does not overlap its
# object has class loss 0 instead of the background loss. DEIMv2's and RT-DETRv4's code has no bound for "mal", as in
# `DfineCriterion`; the heads with the bound of 0.01 have no published weights, and their scores were measured with it.
_TINY = torch.finfo(torch.float32).tiny
MIN_QUALITY = {"varifocal": 0.0, "varifocal_matched": _TINY, "mal": 0.01, "iou_aware": _TINY}


class SetLosses(NamedTuple):
    """Unweighted losses per decoder layer, (L,) each."""

    label: Tensor
    l1: Tensor
    giou: Tensor


class LossWeights(TermWeights):
    """Weights of the terms of `SetLosses`, the losses of classes and of matched boxes."""

    def weighted(self, terms: SetLosses) -> dict[str, Tensor]:
        """The weighted terms, by name."""
        return {name: getattr(self, name) * term for name, term in terms._asdict().items()}


def last_and_auxiliary(terms: dict[str, Tensor], proposals: bool = False) -> dict[str, Tensor]:
    """Each term of the last layer, and `auxiliary`, the sum of the others; with `proposals`, the sum of the first layer
    has this name instead. terms: (L,) each."""
    by_layer = torch.stack(list(terms.values()), dim=1)  # (L, terms)
    first = {"proposals": by_layer[0].sum()} if proposals else {}
    last = dict(zip(terms, by_layer[-1].unbind(), strict=True))
    return {**last, "auxiliary": by_layer[len(first) : -1].sum(), **first}


def box_losses(boxes: Tensor, objects: Objects, pairs: MatchedPairs, count: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """L1 and GIoU losses of matched boxes, (L,) each, divided by the count, and the IoU of each pair, (L, M).

    boxes: (L, B, Q, 4) cxcywh, in fp32. Without matches the losses are 0 (connected to the graph).
    """
    predicted, truth = boxes[pairs.layer, pairs.image, pairs.query], objects.boxes[pairs.target]  # (L, M, 4)
    iou, giou = overlaps(to_corners(predicted), to_corners(truth))
    return (predicted - truth).abs().sum((1, 2)) / count, (1 - giou).sum(1) / count, iou


def set_losses(
    logits: Tensor,
    boxes: Tensor,
    objects: Objects,
    pairs: MatchedPairs,
    context: LossContext,
    classification: Classification,
    object_count: int | None = None,
    normalizer_name: str = "objects",
) -> SetLosses:
    """Binary class losses, and L1 and GIoU losses of matched predictions, in fp32 regardless of autocast.

    logits: (L, B, Q, K). boxes: (L, B, Q, 4) cxcywh. Normalised by the number of objects, averaged over processes.
    object_count: replaces the number of `objects` if each has several predictions. normalizer_name: the key of the
    number of objects in `Head.loss_counts`.
    """
    with autocast_off(logits.device):
        logits = logits.float()
        object_count = len(objects.labels) if object_count is None else object_count
        count = torch.full((), float(object_count), device=logits.device)
        count = context.mean_counts(**{normalizer_name: count})[0].clamp(min=context.min_normalizer())
        l1, giou, iou = box_losses(boxes.float(), objects, pairs, count)
        is_focal = classification == "focal"
        quality = torch.ones_like(iou) if is_focal else iou.detach().clamp(min=MIN_QUALITY[classification])
        target = torch.zeros_like(logits)
        index = pairs.layer, pairs.image, pairs.query, objects.labels[pairs.target]
        target[index] = quality
        logits = labelled_logits(logits, target, objects.labelled)
        weights = None if objects.label_weights is None else objects.label_weights[pairs.target]
        label = with_label_weights(BINARY_LOSSES[classification](logits, target), index, weights)
        label = label.sum((1, 2, 3)) / count
    return SetLosses(label, l1, giou)


def softmax_set_losses(
    logits: Tensor, boxes: Tensor, objects: Objects, pairs: MatchedPairs, context: LossContext, no_object_weight: float
) -> SetLosses:
    """Softmax class losses (DETR), and L1 and GIoU losses of matched predictions, in fp32 regardless of autocast.

    logits: (L, B, Q, K+1), the last class is "no object". boxes: (L, B, Q, 4) cxcywh. The class loss is divided by the
    sum of the class weights of all queries, the others by the number of objects, both averaged over processes.
    """
    with autocast_off(logits.device):
        cross_entropy, weight = query_cross_entropy(
            logits.float(), objects.labels, pairs, no_object_weight, objects.labelled, objects.label_weights
        )
        count = torch.full((), float(len(objects.labels)), device=logits.device)
        count, total = context.mean_counts(objects=count, objects_weights=weight.sum((1, 2)))
        label = (cross_entropy * weight).sum((1, 2)) / total.clamp(min=1e-6)
        l1, giou, _ = box_losses(boxes.float(), objects, pairs, count.clamp(min=context.min_normalizer()))
    return SetLosses(label, l1, giou)


def query_cross_entropy(
    logits: Tensor,
    labels: Tensor,
    pairs: MatchedPairs,
    no_object_weight: float,
    labelled: Tensor | None = None,
    label_weights: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Cross-entropy of the class of each query, and the weight of this class, (L, B, Q) each.

    logits: (L, B, Q, K+1). labels: (T,), of all objects. A query without an object has the class K with weight
    `no_object_weight`; other classes have weight 1. labelled: (B, 1, K) (`labelled_logits`). label_weights: (T,), of
    the losses of matched queries (`with_label_weights`).
    """
    no_object = logits.shape[-1] - 1
    classes = torch.full(logits.shape[:3], no_object, device=logits.device)  # (L, B, Q)
    classes[pairs.layer, pairs.image, pairs.query] = labels[pairs.target]
    weight = torch.where(classes == no_object, no_object_weight, 1.0)
    if labelled is not None:
        targets = F.one_hot(classes, no_object + 1)
        logits = labelled_logits(logits, targets, F.pad(labelled, (0, 1), value=True))
    losses = F.cross_entropy(logits.flatten(0, 2), classes.flatten(), reduction="none").view_as(weight)
    weights = None if label_weights is None else label_weights[pairs.target]
    return with_label_weights(losses, (pairs.layer, pairs.image, pairs.query), weights), weight
