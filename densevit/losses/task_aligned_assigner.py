"""One-to-many assignment of map cells to objects, for dense losses (TOOD, Feng et al. 2021, section 3.2)."""

from typing import NamedTuple

import torch
from torch import Tensor

from densevit.losses.boxes import overlaps, to_corners
from densevit.losses.matching import Objects


class Assigned(NamedTuple):
    """Which object each cell learns.

    target: (B, S), the object among all T, -1 for none. iou: (B, S), the overlap with that object, 0 for none.
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
) -> Assigned:
    """Gives each object the `top` cells inside its box that do best at it, by p^alpha IoU^beta.

    logits: (B, S, K). boxes: (B, S, 4) cxcywh. centres: (B, S, 2). A cell that several objects want goes to the one it
    overlaps most. An object that has no cell's centre inside gets the nearest one.
    """
    B, S, _ = logits.shape
    target = torch.full((B, S), -1, device=logits.device)
    iou_of = torch.zeros(B, S, device=logits.device)
    T = len(objects.labels)
    if T == 0:
        return Assigned(target, iou_of)
    low, high = to_corners(objects.boxes).split(2, dim=-1)
    cells = centres[objects.image]  # (T, S, 2)
    distance = (cells - objects.boxes[:, None, :2]).square().sum(-1)
    nearest = torch.zeros_like(distance, dtype=torch.bool).scatter_(1, distance.argmin(1, keepdim=True), True)
    inside = ((cells > low[:, None]) & (cells < high[:, None])).all(-1) | nearest  # (T, S)

    iou, _ = overlaps(to_corners(boxes[objects.image].float()), to_corners(objects.boxes)[:, None])  # (T, S)
    score = logits.float().sigmoid().transpose(1, 2)[objects.image, objects.labels]  # (T, S)
    # A floor under both keeps an order among cells while nothing overlaps yet: the nearest first.
    alignment = (score.clamp(min=1e-4) ** alpha) * (iou.clamp(min=1e-2) ** beta) / (1 + 1e-3 * distance)
    alignment = alignment.masked_fill(~inside, -1.0)
    best = alignment.topk(min(top, S), dim=1)
    chosen = torch.zeros_like(inside).scatter_(1, best.indices, best.values >= 0)

    # For each cell, the chosen object of highest overlap: objects of other images never want it.
    want = torch.where(chosen, iou + 1e-6, torch.zeros_like(iou))  # (T, S)
    most = torch.zeros(B, S, device=want.device).scatter_reduce(0, objects.image[:, None].expand(-1, S), want, "amax")
    winner = chosen & (want == most[objects.image])
    place = torch.arange(T, device=want.device)[:, None].expand(-1, S)
    target = target.scatter_reduce(0, objects.image[:, None].expand(-1, S), torch.where(winner, place, -1), "amax")
    iou_of = iou.gather(0, target.clamp(min=0)) * (target >= 0)
    return Assigned(target, iou_of)
