"""Segments of a batch: instance masks, or the regions of panoptic and semantic maps, read at points only."""

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

    maps: of each image, ids (1, H, W), of which each segment has one, or its N masks (N, H, W). ids: (T,), the value
    of a segment's pixels in its map. labels: (T,). counts: segments per image. sizes: (h, w) of each image. names:
    image ids, for messages.
    """

    maps: list[Tensor]
    ids: Tensor
    labels: Tensor
    counts: list[int]
    sizes: list[tuple[int, int]]
    names: list[int | str]

    @classmethod
    def of(cls, targets: Sequence[Targets], task: Task, num_classes: int, device: torch.device) -> "Segments":
        """The segments of labelled images. Crowds (`panoptic_crowds`), void and ignored pixels are background.

        The ids of maps are copied from the device once.
        """
        names = [target.get("image_id", i) for i, target in enumerate(targets)]
        sizes = [(int(target["size"][0]), int(target["size"][1])) for target in targets]
        if task == "instance":
            maps = [to_device(target["masks"], device) for target in targets]
            labels = torch.cat([to_device(target["labels"], device) for target in targets])
            return cls(maps, torch.ones_like(labels), labels, [len(x) for x in maps], sizes, names)
        maps = [to_device(target[task], device)[None] for target in targets]
        limit = num_classes * LABEL_DIVISOR if task == "panoptic" else min(num_classes, IGNORE)
        present = torch.stack([_present(x, limit) for x in maps]).cpu()
        found = [torch.nonzero(row)[:, 0].tolist() for row in present]
        if task == "panoptic":
            crowds = [{int(x) for x in target.get("panoptic_crowds", ())} for target in targets]
            found = [[x for x in ids if x not in crowd] for ids, crowd in zip(found, crowds, strict=True)]
        ids = to_device(torch.tensor([x for row in found for x in row], dtype=torch.long), device)
        labels = ids // LABEL_DIVISOR if task == "panoptic" else ids
        return cls(maps, ids, labels, [len(row) for row in found], sizes, names)

    def at(self, image: int, targets: Tensor | None, points: Tensor) -> Tensor:
        """Whether points are on segments of an image, interpolated bilinearly between pixels: 0 ... 1.

        targets: (N,), indices among all T; None: all of the image. points: (N or 1, P, 2), xy in 0 ... 1 of the image.
        Returns (N, P); pixels outside the image count as 0.
        """
        first = sum(self.counts[:image])
        if targets is None:
            targets = torch.arange(first, first + self.counts[image], device=points.device)
        maps, (height, width) = self.maps[image], self.sizes[image]
        channel = (targets - first).clamp(max=len(maps) - 1)[:, None]
        ids = self.ids[targets][:, None]
        x, y = (points * torch.stack([_number(width, points), _number(height, points)]) - 0.5).unbind(-1)
        left, top = x.floor(), y.floor()
        value = points.new_zeros(())
        for column, weight_x in ((left, left + 1 - x), (left + 1, x - left)):
            for row, weight_y in ((top, top + 1 - y), (top + 1, y - top)):
                inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
                cell = row.clamp(0, height - 1).long() * width + column.clamp(0, width - 1).long()
                found = maps.flatten()[channel * (height * width) + cell] == ids
                value = value + (weight_x * weight_y * inside) * found
        return value


def _number(value: int, like: Tensor) -> Tensor:
    return torch.full((), float(value), device=like.device)


def _present(ids: Tensor, limit: int) -> Tensor:
    """Whether each id below the limit occurs. Returns (limit,) bool."""
    index = torch.where((ids >= 0) & (ids < limit), ids.long(), limit).flatten()
    return torch.zeros(limit + 1, dtype=torch.bool, device=ids.device).index_fill_(0, index, True)[:limit]
