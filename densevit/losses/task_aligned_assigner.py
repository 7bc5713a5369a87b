"""Task-aligned one-to-many assignment of cells to objects (TOOD, Feng et al. 2021, section 3.2)."""

from typing import NamedTuple

import torch
from torch import Tensor

from densevit.losses.boxes import overlaps, to_corners
from densevit.losses.matching import Objects


class Assignment(NamedTuple):
    """The object assigned to each cell.

    target: (B, S), index of the object among all T, -1 for background. iou: (B, S), IoU with this object, 0 for
    background.
    """

    target: Tensor
    iou: Tensor


@torch.no_grad()
def task_aligned(
    logits: Tensor,
    boxes: Tensor,
    centres: Tensor,
    objects: Objects,
    top: int = 9,
    alpha: float = 0.5,
    beta: float = 6.0,
) -> Assignment:
    """Assigns to each object the `top` cells inside its box with the highest alignment p^alpha IoU^beta.

    logits: (B, S, K). boxes: (B, S, 4) cxcywh. centres: (B, S, 2). A cell chosen by several objects is assigned
    to the object with the highest IoU. A tiny or narrow object that contains no cell centre chooses the nearest cell.
    An object is not assigned if all its cells are assigned to others.
    """
    B, S, _ = logits.shape
    target = torch.full((B, S), -1, device=logits.device)
    assigned_iou = torch.zeros(B, S, device=logits.device)
    T = len(objects.labels)
    if T == 0:
        return Assignment(target, assigned_iou)
    truth = to_corners(objects.boxes)[:, None]  # (T, 1, 4)
    cells = centres[objects.image]  # (T, S, 2)
    distance = (cells - objects.boxes[:, None, :2]).square().sum(-1)
    nearest = torch.zeros_like(distance, dtype=torch.bool).scatter_(1, distance.argmin(1, keepdim=True), True)
    inside = ((cells > truth[..., :2]) & (cells < truth[..., 2:])).all(-1) | nearest  # (T, S)

    iou, _ = overlaps(to_corners(boxes[objects.image].float()), truth)  # (T, S)
    score = logits.float().sigmoid().transpose(1, 2)[objects.image, objects.labels]  # (T, S)
    # While no box overlaps yet, the lower bounds and the distance sort the cells, nearest first.
    alignment = (score.clamp(min=1e-4) ** alpha) * (iou.clamp(min=1e-2) ** beta) / (1 + 1e-3 * distance)
    alignment = alignment.masked_fill(~inside, -1.0)
    best = alignment.topk(min(top, S), dim=1)
    chosen = torch.zeros_like(inside).scatter_(1, best.indices, best.values >= 0)

    # Of the objects that chose a cell, take the object with the highest IoU.
    claim = torch.where(chosen, iou + 1e-6, torch.zeros_like(iou))  # (T, S)
    highest = torch.zeros(B, S, device=claim.device).scatter_reduce(
        0, objects.image[:, None].expand(-1, S), claim, "amax"
    )
    winner = chosen & (claim == highest[objects.image])
    index = torch.arange(T, device=claim.device)[:, None].expand(-1, S)
    target = target.scatter_reduce(0, objects.image[:, None].expand(-1, S), torch.where(winner, index, -1), "amax")
    assigned_iou = iou.gather(0, target.clamp(min=0)) * (target >= 0)
    return Assignment(target, assigned_iou)
