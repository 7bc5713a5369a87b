"""One-to-many detection loss on all cells of a map: auxiliary supervision for faster convergence of set prediction."""

import torch
from torch import Tensor

from densevit.layers.precision import autocast_off
from densevit.losses.boxes import overlaps, to_corners
from densevit.losses.classification import labelled_logits, matchability_aware
from densevit.losses.context import LossContext
from densevit.losses.matching import Objects
from densevit.losses.set_losses import SetLosses
from densevit.losses.task_aligned_assigner import task_aligned


def dense_detection(
    logits: Tensor, boxes: Tensor, centres: Tensor, padding: Tensor, objects: Objects, context: LossContext
) -> SetLosses:
    """Matchability-aware class loss, L1 and GIoU losses of cells assigned by `task_aligned`, as fp32 scalars.

    logits: (B, S, K). boxes: (B, S, 4) cxcywh. centres: (B, S, 2). padding: (B, S), cells to ignore.
    Normalised by the sum of assigned IoUs, averaged over processes.
    """
    with autocast_off(logits.device):
        logits, boxes = logits.float(), boxes.float()
        centres = torch.where(padding[..., None], 1e4, centres)  # outside of all boxes and never nearest
        target, quality = task_aligned(logits, boxes, centres, objects)
        positive = target >= 0
        quality = quality.clamp(min=0.01) * positive
        total = context.mean(quality.sum()).clamp(min=1 / context.processes)

        quality_target = torch.zeros_like(logits)
        object_index = target.clamp(min=0)
        if len(objects.labels):
            quality_target.scatter_(2, objects.labels[object_index][..., None], quality[..., None])
        logits = labelled_logits(logits, quality_target, objects.labelled)
        label = matchability_aware(logits, quality_target) * ~padding[..., None]
        if objects.label_weights is not None:
            weights = torch.where(positive, objects.label_weights[object_index], 1.0)
            label = label * torch.ones_like(label).scatter(
                2, objects.labels[object_index][..., None], weights[..., None]
            )
        label = label.sum() / total
        if not len(objects.labels):
            zero = boxes.sum() * 0
            return SetLosses(label, zero, zero)
        truth = objects.boxes[object_index]  # (B, S, 4); background cells have quality 0
        _, giou = overlaps(to_corners(boxes), to_corners(truth))
        l1 = ((boxes - truth).abs().sum(-1) * quality).sum() / total
        return SetLosses(label, l1, ((1 - giou) * quality).sum() / total)
