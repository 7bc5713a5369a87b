"""Losses of matched predictions (DETR, Carion et al. 2020, section 3.1 and A.2), for all decoder layers at once."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from densevit.layers.precision import autocast_off
from densevit.losses.boxes import overlaps, to_corners
from densevit.losses.classification import focal, iou_aware, matchability_aware, varifocal
from densevit.losses.context import LossContext
from densevit.losses.matching import MatchedPairs, Objects

Classification = Literal["focal", "varifocal", "varifocal_matched", "mal", "iou_aware"]
BINARY_LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "focal": focal,
    "varifocal": varifocal,
    "varifocal_matched": varifocal,
    "mal": matchability_aware,
    "iou_aware": iou_aware,
}
# The lower bound of the IoU of a matched prediction. With RT-DETR's bound, a prediction that does not overlap its
# object has class loss 0 instead of the background loss.
_TINY = torch.finfo(torch.float32).tiny
MIN_QUALITY = {"varifocal": 0.0, "varifocal_matched": _TINY, "mal": 0.01, "iou_aware": _TINY}


class SetLosses(NamedTuple):
    """Unweighted losses per decoder layer, (L,) each."""

    label: Tensor
    l1: Tensor
    giou: Tensor


@dataclass(frozen=True)
class LossWeights:
    """Weights of the terms of `SetLosses`; the defaults are DETR's."""

    label: float = 1.0
    l1: float = 5.0
    giou: float = 2.0

    def __post_init__(self) -> None:
        for name, weight in vars(self).items():
            if weight < 0:
                raise ValueError(f"{name} is {weight:g}; a weight must be at least 0.")

    def weighted(self, terms: SetLosses) -> dict[str, Tensor]:
        """The weighted terms, by name."""
        return {name: getattr(self, name) * term for name, term in terms._asdict().items()}


def last_and_auxiliary(terms: dict[str, Tensor]) -> dict[str, Tensor]:
    """Each term of the last layer, and `auxiliary`, the sum of the others. terms: (L,) each."""
    by_layer = torch.stack(list(terms.values()), dim=1)  # (L, terms)
    return {**dict(zip(terms, by_layer[-1].unbind(), strict=True)), "auxiliary": by_layer[:-1].sum()}


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
    object_count: Tensor | None = None,
    normalizer_name: str = "objects",
) -> SetLosses:
    """Binary class losses, and L1 and GIoU losses of matched predictions, in fp32 regardless of autocast.

    logits: (L, B, Q, K). boxes: (L, B, Q, 4) cxcywh. Normalised by the number of objects, averaged over processes.
    object_count: replaces the number of `objects` if each has several predictions. normalizer_name: the key of the
    number of objects in `Head.loss_counts`.
    """
    with autocast_off(logits.device):
        logits = logits.float()
        if object_count is None:
            object_count = torch.full((), float(len(objects.labels)), device=logits.device)
        [object_count] = context.mean_counts(**{normalizer_name: object_count})
        count = object_count.clamp(min=context.min_normalizer())
        l1, giou, iou = box_losses(boxes.float(), objects, pairs, count)
        if classification == "focal":
            quality = torch.ones_like(iou)
        else:
            quality = iou.detach().clamp(min=MIN_QUALITY[classification])
        target = torch.zeros_like(logits)
        target[pairs.layer, pairs.image, pairs.query, objects.labels[pairs.target]] = quality
        label = BINARY_LOSSES[classification](logits, target).sum((1, 2, 3)) / count
    return SetLosses(label, l1, giou)
