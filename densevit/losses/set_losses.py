"""Set prediction losses of DETR (Carion et al. 2020, section 3.1 and A.2), for all decoder layers at once."""

from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from densevit.layers.precision import autocast_off
from densevit.losses.boxes import overlaps, to_corners
from densevit.losses.classification import focal, matchability_aware, varifocal
from densevit.losses.context import Counts, LossContext
from densevit.losses.matching import Matches, Objects

Classification = Literal["softmax", "focal", "varifocal", "varifocal_matched", "mal"]
BINARY_LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "focal": focal,
    "varifocal": varifocal,
    "varifocal_matched": varifocal,
    "mal": matchability_aware,
}
# The lower bound of the IoU of a matched prediction. With RT-DETR's, a prediction that does not overlap its object has
# a class loss of 0, instead of that of background.
MIN_QUALITY = {"varifocal": 0.0, "varifocal_matched": torch.finfo(torch.float32).tiny, "mal": 0.01}


class SetLosses(NamedTuple):
    """Unweighted losses per decoder layer, (L,) each."""

    label: Tensor
    l1: Tensor
    giou: Tensor


def set_losses(
    logits: Tensor,
    boxes: Tensor,
    objects: Objects,
    matches: Matches,
    context: LossContext,
    classification: Classification = "softmax",
    no_object_weight: float = 0.1,
    object_count: Tensor | None = None,
    counts_of: str = "objects",
) -> SetLosses:
    """Class, L1 and GIoU losses of matched predictions, in fp32 regardless of autocast.

    logits: (L, B, Q, K+1), or K unless `classification` is "softmax". boxes: (L, B, Q, 4) cxcywh.
    Normalised by the number of objects, averaged over processes (the softmax class term by the sum of class weights).
    Without objects the box terms are 0 (connected to the graph). object_count: replaces the number of
    `objects` if each has several predictions. counts_of: the name of the number of objects in `Head.loss_counts`; the
    name of the sum of class weights is "NAME_weights". `set_counts` computes both.
    """
    with autocast_off(logits.device):
        logits, boxes = logits.float(), boxes.float()
        index = (matches.layer, matches.image, matches.query)
        predicted, truth = boxes[index], objects.boxes[matches.target]  # (P, 4)
        labels = objects.labels[matches.target]
        iou, giou = overlaps(to_corners(predicted), to_corners(truth))

        min_count = context.least_mean()
        if object_count is None:
            object_count = torch.full((), float(len(objects.labels)), device=logits.device)
        if classification == "softmax":
            classes = torch.full(logits.shape[:3], logits.shape[-1] - 1, device=logits.device)  # "no object"
            classes[index] = labels
            weight = torch.where(classes == logits.shape[-1] - 1, no_object_weight, 1.0)
            cross_entropy = F.cross_entropy(logits.flatten(0, 2), classes.flatten(), reduction="none").view_as(weight)
            counts = {counts_of: object_count, f"{counts_of}_weights": weight.sum((1, 2))}
            object_count, weights = context.mean_counts(**counts)
            label = (cross_entropy * weight).sum((1, 2)) / weights.clamp(min=1e-6)
        else:
            [object_count] = context.mean_counts(**{counts_of: object_count})
            target = torch.zeros_like(logits)
            if classification == "focal":
                quality = torch.ones_like(iou)
            else:
                quality = iou.detach().clamp(min=MIN_QUALITY[classification])
            target[matches.layer, matches.image, matches.query, labels] = quality
            label = BINARY_LOSSES[classification](logits, target).sum((1, 2, 3)) / object_count.clamp(min=min_count)

        per_layer = torch.zeros(len(logits), device=logits.device)
        count = object_count.clamp(min=min_count)
        l1 = per_layer.index_add(0, matches.layer, (predicted - truth).abs().sum(-1)) / count
        box = per_layer.index_add(0, matches.layer, 1 - giou) / count
    return SetLosses(label, l1, box)


def set_counts(
    objects: Sequence[int], num_queries: int, no_object_weight: float = 0.1, counts_of: str = "objects"
) -> Counts:
    """The normalisers of `set_losses`: the number of objects, and the sum of class weights with "softmax".

    objects: the number of objects of each labelled image. num_queries: the number of queries of an image.
    """
    matched = sum(min(count, num_queries) for count in objects)
    weights = matched + no_object_weight * (len(objects) * num_queries - matched)
    return {counts_of: sum(objects), f"{counts_of}_weights": weights}
