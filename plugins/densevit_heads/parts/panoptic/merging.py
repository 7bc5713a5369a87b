"""Post-processing: panoptic maps and instance masks from the masks of queries, in pixels of the image file."""

import torch
from torch import Tensor
from torch.nn import functional as F

from densevit.interfaces import LABEL_DIVISOR, VOID, Predictions
from densevit.layers.tracing import as_tensor, computed_rows, is_exporting, kept_rows, repeat
from densevit.losses.boxes import clipped_corners
from densevit.losses.distributed import to_device

Size = tuple[int, int]

SMALLEST = 4  # pixels: segments of at most this area are removed
CHUNK = 16  # masks upsampled at a time


def panoptic_map(
    logits: Tensor, labels: Tensor, competes: Tensor, things: Tensor, padded: Size, size: Size, original: Size
) -> Tensor:
    """Merges masks to a panoptic map (H, W) int32 as facebookresearch/detr's `PostProcessPanoptic`.

    Each pixel belongs to the mask with the highest logit. Stuff segments of a class are merged into the first. Then
    segments of at most 4 pixels are removed and pixels assigned again, until all segments are larger; this also removes
    the merged segments. Void only if no segment remains.

    logits: (N, h, w) of the padded batch. labels: (N,). competes: (N,) bool, the masks that are merged. things: (K,)
    bool, by class. padded, size, original: (h, w) of the batch, of the image in it, and of the image file.
    """
    rows = computed_rows(competes)
    if not is_exporting() and len(rows) == 0:
        return torch.full(original, VOID, dtype=torch.int32, device=logits.device)
    logits, labels, remaining = logits[rows], labels[rows], competes[rows]
    logits = F.interpolate(logits[:, None], size=padded, mode="bilinear", align_corners=False)[:, 0]
    logits = logits[:, : size[0], : size[1]]
    things = things[labels]
    same = labels[:, None] == labels  # (N, N)

    def without_small(remaining: Tensor) -> tuple[Tensor, Tensor]:
        """The segments (N,) that are large enough, and the segment (H, W) of each pixel before the removal."""
        first = torch.where(
            things, torch.arange(things.shape[0], device=things.device), (same & remaining).int().argmax(1)
        )
        owner = _nearest(first[logits.masked_fill(~remaining[:, None, None], -torch.inf).argmax(0)], original)
        areas = torch.zeros_like(labels).scatter_add(0, owner.flatten(), torch.ones_like(owner.flatten()))
        return remaining & (areas > SMALLEST), owner

    owner = torch.zeros(original, dtype=torch.long, device=logits.device)
    remaining, owner = repeat(without_small, remaining, owner)
    number = (same.tril(-1) & remaining).sum(1)
    ids = torch.where(remaining, labels * LABEL_DIVISOR + number, VOID).to(torch.int32)
    return ids[owner]


def instances(
    scores: Tensor,
    labels: Tensor,
    boxes: Tensor,
    logits: Tensor,
    things: Tensor,
    padded: Size,
    size: Size,
    original: Size,
    lowest: Tensor | float = 0.0,
) -> Predictions:
    """`masks` (N, H, W) bool, `boxes` xyxy, `labels` and `scores` of the queries that are things, best first.

    scores, labels: (Q,). boxes: (Q, 4) cxcywh in 0 ... 1. logits: (Q, h, w). lowest: the lowest score. Others as in
    `panoptic_map`.
    """
    order = scores.argsort(descending=True, stable=True)
    keep = things[labels[order]] & ~(scores[order] < lowest)
    rows = computed_rows(keep)
    order = order[rows]
    masks = torch.empty((order.shape[0], *original), dtype=torch.bool, device=logits.device)
    chunks = [(masks, logits[order])]
    if not is_exporting():  # the number of chunks would be a constant of the file
        chunks = [*zip(masks.split(CHUNK), logits[order].split(CHUNK), strict=True)]
    for out, chunk_logits in chunks:
        chunk_logits = F.interpolate(chunk_logits[:, None], size=padded, mode="bilinear", align_corners=False)[:, 0]
        out.copy_(_nearest(chunk_logits[:, : size[0], : size[1]], original) > 0)
    sides = to_device(as_tensor([original[1], original[0]] * 2), boxes.device)
    corners = clipped_corners(boxes[order]) * sides
    predictions = {"masks": masks, "boxes": corners, "labels": labels[order], "scores": scores[order]}
    return kept_rows(keep[rows], predictions)


def _nearest(x: Tensor, size: Size) -> Tensor:
    """Resizes (..., h, w) to (..., *size); each pixel takes the value at its centre, as in Pillow."""
    if tuple(x.shape[-2:]) == size:
        return x
    sides = zip(size, x.shape[-2:], strict=True)
    rows, columns = ((2 * torch.arange(n, device=x.device) + 1) * m // (2 * n) for n, m in sides)
    return x[..., rows[:, None], columns]
