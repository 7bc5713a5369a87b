"""Segments of a batch: instance masks, or the regions of panoptic and semantic maps, read at points only.

Run-length coded masks are read at points too, without their pixels.
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from densevit.interfaces import IGNORE, LABEL_DIVISOR, Targets
from densevit.losses.distributed import to_device

Task = Literal["panoptic", "instance", "semantic"]
NEEDS: dict[Task, tuple[str, ...]] = {
    "panoptic": ("panoptic",),
    "instance": ("masks", "labels"),
    "semantic": ("semantic",),
}


class Segments(NamedTuple):
    """The T segments of all images of a batch, concatenated.

    maps: flattened maps of all images, one after another: the ids (H, W) of an image, of which each segment has one, or
    its N masks (N, H, W). coded: `maps` are instead the edges of run-length codes, see `RunLengthMasks.edges`, counted
    on from image to image. starts: (T,), the number of the first pixel of a segment's map. extents: (T, 2), its width
    and height. ids: (T,), the value of a segment's pixels in its map. image, labels: (T,). counts: segments per image.
    sizes: (h, w) of each image. names: image ids, for messages.
    """

    maps: Tensor
    coded: bool
    starts: Tensor
    extents: Tensor
    ids: Tensor
    image: Tensor
    labels: Tensor
    counts: list[int]
    sizes: list[tuple[int, int]]
    names: list[int | str]

    @classmethod
    def of(cls, targets: Sequence[Targets], task: Task, num_classes: int, device: torch.device) -> "Segments":
        """The segments of labelled images. Crowds (`panoptic_crowds`), void and ignored pixels are background.

        The ids of maps are copied from the device once.
        """
        given = [target["masks" if task == "instance" else task] for target in targets]
        coded = not any(isinstance(x, Tensor) for x in given)
        maps = [to_device(torch.from_numpy(x.edges()) if coded else x, device) for x in given]
        if task == "instance":
            counts = [len(target["labels"]) for target in targets]
            labels = torch.cat([to_device(target["labels"], device) for target in targets])
            ids = torch.ones_like(labels)
        else:
            found = segment_ids(maps, targets, task, num_classes)
            counts = [len(row) for row in found]
            ids = to_device(torch.tensor([x for row in found for x in row], dtype=torch.long), device)
            labels = ids // LABEL_DIVISOR if task == "panoptic" else ids
        names = [target.get("image_id", i) for i, target in enumerate(targets)]
        sizes = [(int(target["size"][0]), int(target["size"][1])) for target in targets]
        rows, first = [], 0  # start, image, width and height of each segment
        for i, (count, (height, width)) in enumerate(zip(counts, sizes, strict=True)):
            step = height * width if task == "instance" else 0
            rows += [(first + n * step, i, width, height) for n in range(count)]
            maps[i] = maps[i] + first if coded else maps[i].flatten()
            first += count * step if task == "instance" else height * width
        table = to_device(torch.tensor(rows, dtype=torch.long).view(-1, 4), device)
        starts, image, extents = table[:, 0], table[:, 1], table[:, 2:]
        return cls(torch.cat(maps), coded, starts, extents, ids, image, labels, counts, sizes, names)

    def at(self, targets: Tensor, points: Tensor) -> Tensor:
        """Whether points are on segments, interpolated bilinearly between pixels: 0 ... 1.

        targets: (R,), of the T segments. points: (R, P, 2), xy in 0 ... 1 of the image of each. Returns (R, P); pixels
        outside the image count as 0.
        """
        extents, ids = self.extents[targets], self.ids[targets][:, None]
        start, (width, height) = self.starts[targets][:, None], extents.T[:, :, None]  # (R, 1) each
        x, y = (points * extents[:, None] - 0.5).unbind(-1)
        left, top = x.floor(), y.floor()
        value = points.new_zeros(())
        for column, weight_x in ((left, left + 1 - x), (left + 1, x - left)):
            for row, weight_y in ((top, top + 1 - y), (top + 1, y - top)):
                inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
                i, j = _within(row, height), _within(column, width)
                cell = start + (j * height + i if self.coded else i * width + j)
                found = torch.searchsorted(self.maps, cell, right=True) & 1 if self.coded else self.maps[cell] == ids
                value = value + (weight_x * weight_y * inside) * found
        return value


def segment_counts(targets: Sequence[Targets], task: Task, num_classes: int) -> list[int]:
    """The number of segments of each labelled image, as `Segments.of` counts them."""
    if task == "instance":
        return [len(target["labels"]) for target in targets]
    return [len(ids) for ids in segment_ids([target[task] for target in targets], targets, task, num_classes)]


def segment_ids(maps: Sequence[Tensor], targets: Sequence[Targets], task: Task, num_classes: int) -> list[list[int]]:
    """The ids of the segments of each map, panoptic or semantic, in order. One transfer to the CPU.

    Void, ignored pixels, classes of `num_classes` and above, and the targets' `panoptic_crowds` are no segments.
    """
    if not maps:
        return []
    limit = num_classes * LABEL_DIVISOR if task == "panoptic" else min(num_classes, IGNORE)
    present = torch.stack([_present(x, limit) for x in maps]).cpu()
    found = [torch.nonzero(row)[:, 0].tolist() for row in present]
    if task == "panoptic":
        crowds = [{int(x) for x in target.get("panoptic_crowds", ())} for target in targets]
        found = [[x for x in row if x not in crowd] for row, crowd in zip(found, crowds, strict=True)]
    return found


def _within(index: Tensor, size: Tensor) -> Tensor:
    return index.long().clamp(min=0).minimum(size - 1)


def _present(ids: Tensor, limit: int) -> Tensor:
    """Whether each id below the limit occurs. Returns (limit,) bool."""
    index = torch.where((ids >= 0) & (ids < limit), ids.long(), limit).flatten()
    return torch.zeros(limit + 1, dtype=torch.bool, device=ids.device).index_fill_(0, index, True)[:limit]
