"""Segments of panoptic label maps, as the objects that DETR learns: boxes, labels and masks."""

from typing import NamedTuple

import torch
from torch import Tensor

from densevit.interfaces import LABEL_DIVISOR, VOID, Targets
from densevit.losses.distributed import cpu_copy_of, to_device
from densevit.set_prediction.mask_segments import segment_ids

_PADDING = VOID - 1


class PanopticSegments(NamedTuple):
    """The T segments of all images of a batch, things and stuff, ordered by image and panoptic id.

    targets: each image's `boxes` (N, 4) xyxy around the visible pixels and `labels` (N,) of its segments, if it is
    labelled. owner: (B, H, W) int32, the segment of each pixel, -1 where there is none. valid: (B, H, W) bool, False at
    void and crowds; True in the padding.
    """

    targets: list[Targets]
    owner: Tensor
    valid: Tensor

    @classmethod
    def of(
        cls, targets: list[Targets], num_classes: int, size: tuple[int, int], device: torch.device
    ) -> "PanopticSegments":
        """size: (H, W) of the padded batch.

        Crowds (`panoptic_crowds`) are no objects; their pixels belong to no segment, like void. An image without
        segments is unlabelled. Ids are read from maps' copies on the CPU (`cpu_copy_of`), or copied from the device
        once.
        """
        bare: list[Targets] = [
            {key: t[key] for key in ("image_id", "size", "original_size", "labelled") if key in t} for t in targets
        ]
        labelled = [target for target in targets if "panoptic" in target]
        if not labelled:
            owner = torch.full((len(targets), *size), -1, dtype=torch.int32, device=device)
            return cls(bare, owner, owner < 0)
        ids = _padded(targets, size, device)  # (B, H, W)
        B, ids_per_image = len(targets), num_classes * LABEL_DIVISOR
        first = torch.arange(B, device=device)[:, None, None] * ids_per_image
        key = torch.where(ids >= 0, ids + first, B * ids_per_image)
        copies = [cpu_copy_of(target["panoptic"]) for target in labelled]
        rows = iter(segment_ids(copies, labelled, "panoptic", num_classes))
        present = [next(rows) if "panoptic" in target else [] for target in targets]
        counts = [len(row) for row in present]
        segments = torch.tensor([x for row in present for x in row], dtype=torch.long)  # (T,) ids
        image = torch.repeat_interleave(torch.tensor(counts))
        lookup = torch.full((B * ids_per_image + 1,), -1, dtype=torch.int32)
        lookup[image * ids_per_image + segments] = torch.arange(len(segments), dtype=torch.int32)
        owner = to_device(lookup, device)[key]
        labels = to_device(segments // LABEL_DIVISOR, device)
        each = zip(bare, _boxes(owner, len(segments)).split(counts), labels.split(counts), strict=True)
        learned: list[Targets] = [{**b, "boxes": boxes, "labels": y} if len(y) else b for b, boxes, y in each]
        return cls(learned, owner, (owner >= 0) | (ids == _PADDING))

    def masks(self, image: Tensor, segment: Tensor) -> Tensor:
        """The masks of P segments, (P, H, W) bool. image, segment: (P,)."""
        return self.owner.index_select(0, image) == segment[:, None, None]


def _padded(targets: list[Targets], size: tuple[int, int], device: torch.device) -> Tensor:
    """The panoptic maps as (B, H, W) int64; _PADDING at padding and in images without one."""
    maps = torch.full((len(targets), *size), _PADDING, dtype=torch.int64, device=device)
    for panoptic_map, target in zip(maps, targets, strict=True):
        if "panoptic" in target:
            h, w = target["panoptic"].shape
            panoptic_map[:h, :w] = to_device(target["panoptic"], device)
    return maps


def _boxes(owner: Tensor, count: int) -> Tensor:
    """Boxes (T, 4) xyxy in pixels around the pixels of each segment; no transfer. owner: (B, H, W)."""
    segment = torch.where(owner < 0, count, owner).long()
    sides = []
    for axis in (2, 1):  # x, y
        length = owner.shape[axis]
        cells = torch.arange(length, device=owner.device)
        position = cells if axis == 2 else cells[:, None]
        occupied = torch.zeros((count + 1) * length, dtype=torch.bool, device=owner.device)
        occupied.index_fill_(0, (segment * length + position).flatten(), True)
        occupied = occupied.view(count + 1, length)[:count]
        sides.append((torch.where(occupied, cells, length).amin(1), torch.where(occupied, cells + 1, 0).amax(1)))
    (left, right), (top, bottom) = sides
    return torch.stack([left, top, right, bottom], dim=1).float()
