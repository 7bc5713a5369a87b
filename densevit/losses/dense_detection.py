"""A detection loss on every cell of a map, one object to many cells: with it, set prediction learns sooner."""

import torch
from torch import Tensor

from densevit.layers.precision import autocast_off
from densevit.losses.boxes import overlaps, to_corners
from densevit.losses.classification import matchability_aware
from densevit.losses.distributed import mean_over_processes, process_count
from densevit.losses.matching import Objects
from densevit.losses.set_prediction import SetLosses
from densevit.losses.task_aligned_assigner import task_aligned


def dense_detection(logits: Tensor, boxes: Tensor, centres: Tensor, padding: Tensor, objects: Objects) -> SetLosses:
    """Matchability-aware class loss, L1 and generalised IoU of cells assigned by `task_aligned`: fp32 scalars.

    logits: (B, S, K). boxes: (B, S, 4) cxcywh. centres: (B, S, 2). padding: (B, S), cells that neither learn nor count.
    Divided by the mean sum of assigned overlaps over all processes.
    """
    with autocast_off(logits.device):
        logits, boxes = logits.float(), boxes.float()
        outside = torch.where(padding[..., None], 1e4, centres)  # a padded cell is inside no box, and nearest to none
        target, quality = task_aligned(logits, boxes, outside, objects)
        positive = target >= 0
        quality = quality.clamp(min=0.01) * positive
        total = mean_over_processes(quality.sum()).clamp(min=1 / process_count())

        wanted = torch.zeros_like(logits)
        if len(objects.labels) == 0:
            nothing = boxes.sum() * 0
            label = (matchability_aware(logits, wanted) * ~padding[..., None]).sum() / total
            return SetLosses(label, nothing, nothing)
        object_of = target.clamp(min=0)
        wanted.scatter_(2, objects.labels[object_of][..., None], quality[..., None])
        label = (matchability_aware(logits, wanted) * ~padding[..., None]).sum() / total
        truth = objects.boxes[object_of]  # (B, S, 4); those of cells without an object weigh nothing
        _, giou = overlaps(to_corners(boxes), to_corners(truth))
        l1 = ((boxes - truth).abs().sum(-1) * quality).sum() / total
        return SetLosses(label, l1, ((1 - giou) * quality).sum() / total)
