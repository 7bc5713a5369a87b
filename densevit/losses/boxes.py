"""Box format conversions, IoU and generalised IoU."""

from collections.abc import Container

import torch
from torch import Tensor


def has_objects(target: Container[str]) -> bool:
    """Whether an image is labelled with objects, possibly none."""
    return "boxes" in target and "labels" in target


def to_corners(boxes: Tensor) -> Tensor:
    """(..., 4) cxcywh -> xyxy."""
    centre, size = boxes.split(2, dim=-1)
    return torch.cat([centre.sub(size, alpha=0.5), centre.add(size, alpha=0.5)], dim=-1)


def clipped_corners(boxes: Tensor) -> Tensor:
    """(..., 4) cxcywh in 0 ... 1 -> xyxy in fp32, clipped to the image, as predictions and exported files have them.

    The outputs of a head are not clipped.
    """
    return to_corners(boxes.float()).clamp(0, 1)


def to_centres(boxes: Tensor) -> Tensor:
    """(..., 4) xyxy -> cxcywh."""
    low, high = boxes.split(2, dim=-1)
    return torch.cat([(low + high) / 2, high - low], dim=-1)


def overlaps(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Intersection over union (IoU) and generalised IoU (Rezatofighi et al. 2019, algorithm 1).

    a, b: (..., 4) xyxy, broadcast against each other: (N, 1, 4) with (M, 4) gives all N x M pairs. Returns two (...).
    For degenerate boxes IoU is 0 and GIoU at least -1, never NaN.
    """
    (a_low, a_high), (b_low, b_high) = a.split(2, dim=-1), b.split(2, dim=-1)
    least_low, least_high = torch.minimum(a, b).split(2, dim=-1)
    greatest_low, greatest_high = torch.maximum(a, b).split(2, dim=-1)
    intersection = _product((least_high - greatest_low).clamp(min=0))
    union = _product(a_high - a_low) + _product(b_high - b_low) - intersection
    hull = _product(greatest_high - least_low)
    tiny = torch.finfo(a.dtype).tiny
    iou = intersection / union.clamp(min=tiny)
    return iou, iou - (hull - union) / hull.clamp(min=tiny)


def _product(sides: Tensor) -> Tensor:
    """(..., 2) -> (...)."""
    width, height = sides.unbind(-1)
    return width * height
