"""Predictions from mask queries (Mask2Former, Cheng et al. 2022, section 3.4; MaskFormer, Cheng et al. 2021, section
3.4), in pixels of the image file.

Masks are upsampled to the network input, cropped to the image and resized to the file, a few at a time.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from densevit.interfaces import LABEL_DIVISOR, VOID, Class, Outputs
from densevit.layers import upsampling
from densevit.layers.tracing import as_tensor, computed_rows, is_exporting, kept_rows
from densevit.losses.distributed import to_device

TOP = 100  # instances of an image, unless there are more queries
OVERLAP_THRESHOLD = 4, 5  # 0.8, as a fraction: least share of a mask that is not covered by others
_CHUNK_PIXELS = 2**25  # of upsampled logits: 128 MB in fp32

Size = tuple[int, int]


class MaskLogits(NamedTuple):
    """Masks of an image. logits: (Q, h, w). stride: pixels of the image per pixel of the masks. size: (h, w) of the
    image in the network's input. original: (h, w) of the image file. lowest_score: instances of lower scores are not
    needed. align_corners: the argument of `upsampled`.
    """

    logits: Tensor
    stride: int
    size: Size
    original: Size
    lowest_score: Tensor | float = 0.0
    align_corners: bool = False

    def resized(self, index: Tensor | None = None) -> Iterator[tuple[int, Tensor, Tensor]]:
        """Yields chunks of q masks: position of the first mask in `index`, logits (q, *size), logits (q, *original).

        index: (N,), rows of `logits`; None: all.
        """
        logits = self.logits if index is None else self.logits[index]
        firsts, step = [0], logits.shape[0]
        if not is_exporting():  # the number of chunks would be a constant of the file
            area = max(logits.shape[1] * logits.shape[2] * self.stride**2, self.original[0] * self.original[1])
            step = max(1, _CHUNK_PIXELS // area)
            firsts = [*range(0, len(logits), step)]
        for first in firsts:
            part = logits[None, first : first + step]
            x, y = upsampled(part, self.stride, self.size, self.original, self.align_corners)
            yield first, x.squeeze(0), y.squeeze(0)


def upsampled(
    masks: Tensor, stride: int, size: Size, original: Size, align_corners: bool = False
) -> tuple[Tensor, Tensor]:
    """Mask logits (B, Q, *size) and (B, Q, *original) from logits (B, Q, h, w) of the padded batch at this stride.

    align_corners: the argument of `densevit.layers.upsampling.upsampled`, and of the resizing of the image.
    """
    x = upsampling.upsampled(masks, stride, size, align_corners)
    return x, x if size == original else F.interpolate(x, original, mode="bilinear", align_corners=align_corners)


def semantic(logits: Tensor, masks: MaskLogits) -> Tensor:
    """Class with the highest score, (H, W) uint8. logits: (Q, K+1)."""
    return class_scores(logits, masks).argmax(0).to(torch.uint8)


def class_scores(logits: Tensor, masks: MaskLogits) -> Tensor:
    """Sum over queries of class times mask probability, (K, H, W). logits: (Q, K+1)."""
    classes = logits.softmax(-1)[:, :-1]  # (Q, K)
    scores = classes.new_zeros(classes.shape[1], masks.original[0] * masks.original[1])
    for first, _, x in masks.resized():
        scores.addmm_(classes[first : first + x.shape[0]].T, x.sigmoid().flatten(1))
    return scores.unflatten(1, masks.original)


def instances(
    logits: Tensor,
    masks: MaskLogits,
    classes: Sequence[Class],
    most: int | None = None,
    things: bool = False,
    foreground_logit: float = 0.0,
) -> dict[str, Tensor]:
    """The pairs of query and class with the highest class probability, by descending score.

    Scores are the class probability times the mean probability of the mask's foreground. most: the number of pairs;
    None: the number of queries, at least 100. things: leaves out stuff. foreground_logit: pixels with a higher mask
    logit are the mask.
    Boxes enclose the masks at the size of the network's input and are scaled to the file. Returns `masks` (N, H, W)
    bool, `boxes` (N, 4) xyxy, `labels` and `scores`.
    """
    probabilities = logits.softmax(-1)[:, :-1]
    Q, K = probabilities.shape
    scores, index = probabilities.flatten().topk(min(most or max(TOP, Q), Q * K))
    query, labels = index // K, index % K
    keep = ~(scores < masks.lowest_score)  # the mask's probability is at most 1; also NaN
    if things and not all(c.thing for c in classes):
        keep = keep & to_device(torch.tensor([c.thing for c in classes]), labels.device)[labels]
    rows = computed_rows(keep)
    scores, query, labels, keep = scores[rows], query[rows], labels[rows], keep[rows]
    foregrounds = torch.empty(query.shape[0], *masks.original, dtype=torch.bool, device=logits.device)
    boxes, quality = torch.zeros(query.shape[0], 4, device=logits.device), torch.zeros_like(scores)
    for first, x, y in masks.resized(query):
        part = slice(first, first + x.shape[0])
        foregrounds[part] = y > foreground_logit
        foreground = x > foreground_logit
        quality[part] = (x.sigmoid() * foreground).sum((1, 2)) / (foreground.sum((1, 2)) + 1e-6)
        boxes[part] = enclosing_boxes(foreground)
    (height, width), (h, w) = masks.original, masks.size
    scale = to_device(as_tensor([width / w, height / h] * 2), boxes.device)
    scores, order = (scores * quality).sort(descending=True, stable=True)
    sorted_by_score = {
        "masks": foregrounds[order],
        "boxes": boxes[order] * scale,
        "labels": labels[order],
        "scores": scores,
    }
    return kept_rows(keep[order], sorted_by_score)


def enclosing_boxes(masks: Tensor) -> Tensor:
    """Boxes (N, 4) xyxy around masks (N, H, W) bool; 0 for an empty mask."""
    sides = []
    for filled in (masks.any(1), masks.any(2)):  # columns, rows
        size = filled.shape[1]
        index = torch.arange(size, device=masks.device)
        low = torch.where(filled, index, size).amin(1)
        high = torch.where(filled, index + 1, 0).amax(1)
        sides.append((torch.where(high > 0, low, 0), high))
    (x0, x1), (y0, y1) = sides
    return torch.stack([x0, y0, x1, y1], dim=1).float()


def panoptic(logits: Tensor, masks: MaskLogits, classes: Sequence[Class], threshold: float = 0.8) -> Tensor:
    """Panoptic ids (H, W) int32: each pixel goes to the query with the largest class times mask probability.

    Only queries with a class probability above `threshold` compete. A segment is left out if less than 0.8 of its mask
    remains, and its pixels have a mask probability of at least 0.5; other pixels are void. Segments of the same stuff
    class are merged.
    """
    scores, labels = logits.softmax(-1).max(-1)
    competes = (labels < logits.shape[-1] - 1) & (scores > threshold)
    kept = computed_rows(competes)
    scores, labels = (scores * competes)[kept], labels[kept]
    best = torch.zeros(masks.original, device=logits.device)
    owner = torch.full(masks.original, -1, device=logits.device)
    solid = torch.zeros(masks.original, dtype=torch.bool, device=logits.device)  # the owner's mask is foreground
    areas = torch.zeros(kept.shape[0], dtype=torch.long, device=logits.device)
    for first, _, x in masks.resized(kept):
        p = x.sigmoid()
        part = slice(first, first + x.shape[0])
        areas[part] = (p >= 0.5).sum((1, 2))
        value, index = (p * scores[part, None, None]).max(0)
        better = value > best
        best = torch.where(better, value, best)
        owner = torch.where(better, index + first, owner)
        solid = (better & (p.gather(0, index[None])[0] >= 0.5)) | (~better & solid)
    owned = torch.zeros(kept.shape[0] + 1, dtype=torch.long, device=logits.device)
    owned.scatter_add_(0, owner.flatten() + 1, torch.ones_like(owner.flatten()))
    visible = torch.zeros_like(owned).scatter_add_(0, owner.flatten() + 1, solid.flatten().long())
    table = torch.cat([torch.full_like(owned[:1], VOID), _segment_ids(labels, owned[1:], areas, visible[1:], classes)])
    return torch.where(solid, table[owner + 1], VOID).to(torch.int32)


def _segment_ids(labels: Tensor, owned: Tensor, areas: Tensor, visible: Tensor, classes: Sequence[Class]) -> Tensor:
    """The panoptic id (N,) of each segment, VOID for those that are left out.

    labels: (N,). owned, areas, visible: (N,), the pixels assigned to a segment, the pixels of its mask, and the pixels
    of both.
    """
    share, of = OVERLAP_THRESHOLD
    valid = (owned > 0) & (visible > 0) & (areas > 0) & (of * owned >= share * areas)
    return numbered_segments(labels, valid, classes)


def numbered_segments(labels: Tensor, valid: Tensor, classes: Sequence[Class]) -> Tensor:
    """The panoptic id (N,) of each segment: things of a class are numbered in order, stuff segments of a class share an
    id, invalid segments are VOID. labels: (N,), may be "no object". valid: (N,) bool."""
    thing = to_device(torch.tensor([*(c.thing for c in classes), False]), labels.device)[labels]
    earlier = (labels[:, None] == labels).tril(-1) & valid  # (N, N)
    number = earlier.sum(1) * thing
    return torch.where(valid, labels * LABEL_DIVISOR + number, VOID)


def exported_queries(
    outputs: Outputs, stride: int, size: Size, original_size: Size | None, align_corners: bool = False
) -> dict[str, Tensor]:
    """`scores` (B, Q, K) and `mask_logits` (B, Q, H, W) of a batch of one size, for exported files."""
    _, masks = upsampled(outputs["masks"].float(), stride, size, original_size or size, align_corners)
    return {"scores": outputs["logits"].float().softmax(-1)[..., :-1], "mask_logits": masks}


def class_logits(scores: Tensor) -> Tensor:
    """Log-probabilities (Q, K+1), the last one of "no object". scores: (Q, K), from `exported_queries`."""
    no_object = (1 - scores.sum(-1, keepdim=True)).clamp(min=0)
    return torch.cat([scores, no_object], dim=-1).log()


def exported_maps(scores: Tensor, mask_logits: Tensor) -> dict[str, Tensor]:
    """`semantic` (B, H, W) uint8 and the class scores `maps` (B, K, H, W)."""
    maps = torch.einsum("bqk,bqhw->bkhw", scores, mask_logits.sigmoid())
    return {"semantic": maps.argmax(1).to(torch.uint8), "maps": maps}
