"""Post-processing: panoptic maps and instance masks from the masks of queries, in pixels of the image file."""

import torch
from torch import Tensor
from torch.nn import functional as F

from densevit.interfaces import LABEL_DIVISOR, VOID, Predictions
from densevit.losses.boxes import to_corners
from densevit.losses.distributed import to_device

Size = tuple[int, int]

SMALLEST = 4  # pixels: segments of at most this area are removed
CHUNK = 16  # masks upsampled at a time


def panoptic_map(logits: Tensor, labels: Tensor, things: Tensor, padded: Size, size: Size, original: Size) -> Tensor:
    """Merges masks to a panoptic map (H, W) int32 as facebookresearch/detr's `PostProcessPanoptic`.

    Each pixel belongs to the mask with the highest logit. Segments of one stuff class become the first of them. Then
    segments of at most 4 pixels are removed, and pixels are assigned again, until all are larger; what was merged has
    no pixels of its own left and is removed too. Void only where no segment remains.

    logits: (N, h, w) of the padded batch. labels: (N,). things: (K,) bool, by class. padded, size, original: of the
    batch, of the image in it, and of the image file.
    """
    logits = F.interpolate(logits[:, None], size=padded, mode="bilinear", align_corners=False)[:, 0]
    logits = logits[:, : size[0], : size[1]]
    names, stuff = labels.tolist(), (~things).tolist()
    while names:
        first = [names.index(name) if stuff[name] else i for i, name in enumerate(names)]
        owner = _nearest(to_device(torch.tensor(first), logits.device)[logits.argmax(0)], original)  # (H, W)
        large = [area > SMALLEST for area in torch.bincount(owner.flatten(), minlength=len(names)).tolist()]
        if all(large):
            seen = [names[:i].count(name) for i, name in enumerate(names)]
            ids = [name * LABEL_DIVISOR + number for name, number in zip(names, seen, strict=True)]
            return to_device(torch.tensor(ids, dtype=torch.int32), logits.device)[owner]
        logits = logits[to_device(torch.tensor(large), logits.device)]
        names = [name for name, keep in zip(names, large, strict=True) if keep]
    return torch.full(original, VOID, dtype=torch.int32, device=logits.device)


def instances(
    scores: Tensor,
    labels: Tensor,
    boxes: Tensor,
    logits: Tensor,
    things: Tensor,
    padded: Size,
    size: Size,
    original: Size,
) -> Predictions:
    """`masks` (N, H, W) bool, `boxes` xyxy, `labels` and `scores` of the queries that are things, best first.

    scores, labels: (Q,). boxes: (Q, 4) cxcywh in 0 ... 1. logits: (Q, h, w). Others as in `panoptic_map`.
    """
    order = scores.argsort(descending=True, stable=True)
    order = order[things[labels[order]]]
    masks = torch.empty((len(order), *original), dtype=torch.bool, device=logits.device)
    for out, own in zip(masks.split(CHUNK), logits[order].split(CHUNK), strict=True):
        own = F.interpolate(own[:, None], size=padded, mode="bilinear", align_corners=False)[:, 0]
        out.copy_(_nearest(own[:, : size[0], : size[1]], original) > 0)
    sides = to_device(torch.tensor((original[1], original[0]) * 2, dtype=torch.float32), boxes.device)
    corners = to_corners(boxes[order]).clamp(0, 1) * sides
    return {"masks": masks, "boxes": corners, "labels": labels[order], "scores": scores[order]}


def _nearest(x: Tensor, size: Size) -> Tensor:
    """Resizes (..., h, w) to (..., *size); each pixel takes the value at its centre, as in Pillow."""
    if x.shape[-2:] == torch.Size(size):
        return x
    sides = zip(size, x.shape[-2:], strict=True)
    rows, columns = ((2 * torch.arange(n, device=x.device) + 1) * m // (2 * n) for n, m in sides)
    return x[..., rows[:, None], columns]
