"""Box format conversions, IoU and generalised IoU."""

from collections.abc import Container

import torch
from torch import Tensor


def has_objects(target: Container[str]) -> bool:
    """Whether an image is labelled with objects, possibly none."""
    return "boxes" in target and "labels" in target


def to_corners(boxes: Tensor) -> Tensor:
    """(..., 4) cxcywh -> xyxy."""
    centre, size = boxes[..., :2], boxes[..., 2:]
    return torch.cat([centre - size / 2, centre + size / 2], dim=-1)


def to_centres(boxes: Tensor) -> Tensor:
    """(..., 4) xyxy -> cxcywh."""
    low, high = boxes[..., :2], boxes[..., 2:]
    return torch.cat([(low + high) / 2, high - low], dim=-1)


def overlaps(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Intersection over union (IoU) and generalised IoU (Rezatofighi et al. 2019, algorithm 1).

    a, b: (..., 4) xyxy, broadcast against each other: (N, 1, 4) with (M, 4) gives all N x M pairs. Returns two (...).
    For degenerate boxes IoU is 0 and GIoU at least -1, never NaN.
    """
    ax1, ay1, ax2, ay2 = a.unbind(-1)  # separate coordinates avoid (..., 2) temporaries
    bx1, by1, bx2, by2 = b.unbind(-1)
    width = (torch.minimum(ax2, bx2) - torch.maximum(ax1, bx1)).clamp(min=0)
    height = (torch.minimum(ay2, by2) - torch.maximum(ay1, by1)).clamp(min=0)
    intersection = width * height
    union = (ax2 - ax1) * (ay2 - ay1) + (bx2 - bx1) * (by2 - by1) - intersection
    hull_width = torch.maximum(ax2, bx2) - torch.minimum(ax1, bx1)
    hull_height = torch.maximum(ay2, by2) - torch.minimum(ay1, by1)
    hull = hull_width * hull_height
    tiny = torch.finfo(a.dtype).tiny
    iou = intersection / union.clamp(min=tiny)
    return iou, iou - (hull - union) / hull.clamp(min=tiny)
