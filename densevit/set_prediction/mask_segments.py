"""Segments of a batch: instance masks, or the regions of panoptic and semantic maps, read at points only.

Instance masks are read from their run lengths, without their pixels. Predicted masks are compared with them at points,
as in PointRend (Kirillov et al. 2020, section 3.1).
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from densevit.interfaces import IGNORE, LABEL_DIVISOR, VOID, Targets
from densevit.losses.distributed import cpu_copy_of, to_device
from densevit.losses.matching import label_weights, labelled_classes

OVERSAMPLING = 3.0
IMPORTANCE = 0.75  # share of points that are the most uncertain; the others are random
_CHUNK = 2**24  # values of the maps that are computed at once: 64 MB in fp32

Task = Literal["panoptic", "instance", "semantic"]
PaddingMode = Literal["zeros", "border"]
REQUIRED_TARGETS: dict[Task, tuple[str, ...]] = {
    "panoptic": ("panoptic",),
    "instance": ("masks", "labels"),
    "semantic": ("semantic",),
}


class MaskSegments(NamedTuple):
    """The T segments of all images of a batch, concatenated.

    maps: the id maps (H, W) of all images, flattened and concatenated; each segment is one id of its map. coded: `maps`
    holds the edges of instance masks instead (`RunLengthMasks.edges`), offset image by image. starts: (T,), the number
    of the first pixel of a segment's map. extents: (T, 2), its width and height. ids: (T,), the value of a segment's
    pixels in its map; 1 for masks. image, labels: (T,). counts: segments per image.
    sizes: (h, w) of each image. names: image ids, for messages. limit: ids from 0 to below it are segments, others are
    unlabelled pixels; None: all pixels are labelled. labelled: the result of `labelled_classes`. label_weights: (T,),
        of instances (`Objects`).
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
    limit: int | None = None
    labelled: Tensor | None = None
    label_weights: Tensor | None = None

    @classmethod
    def of(cls, targets: Sequence[Targets], task: Task, num_classes: int, device: torch.device) -> "MaskSegments":
        """The segments of labelled images. Crowds (`panoptic_crowds`), void and ignored pixels are unlabelled.

        The ids of maps are read from their copies on the CPU (`cpu_copy_of`), or copied from the device once.
        """
        limit, coded = None, task == "instance"
        if coded:
            maps = [to_device(torch.from_numpy(target["masks"].edges()), device) for target in targets]
            counts = [len(target["labels"]) for target in targets]
            labels = torch.cat([to_device(target["labels"], device) for target in targets])
            ids = torch.ones_like(labels)
        else:
            maps = [_without_crowds(to_device(target[task], device), target, task) for target in targets]
            copies = [_without_crowds(cpu_copy_of(target[task]), target, task) for target in targets]
            present, has_void = _ids_and_void(copies, task, num_classes)
            limit = _limit(task, num_classes) if has_void else None
            counts = [len(row) for row in present]
            ids = to_device(torch.tensor([x for row in present for x in row], dtype=torch.long), device)
            labels = ids // LABEL_DIVISOR if task == "panoptic" else ids
        names = [target.get("image_id", i) for i, target in enumerate(targets)]
        sizes = [(int(target["size"][0]), int(target["size"][1])) for target in targets]
        rows, first = [], 0  # start, image, width and height of each segment
        for i, (count, (height, width)) in enumerate(zip(counts, sizes, strict=True)):
            step = height * width if coded else 0
            rows += [(first + n * step, i, width, height) for n in range(count)]
            maps[i] = maps[i] + first if coded else maps[i].flatten()
            first += count * step if coded else height * width
        table = to_device(torch.tensor(rows, dtype=torch.long).view(-1, 4), device)
        starts, image, extents = table[:, 0], table[:, 1], table[:, 2:]
        classes = labelled_classes(targets, device)
        weights = label_weights(targets, device) if task == "instance" else None
        return cls(
            torch.cat(maps), coded, starts, extents, ids, image, labels, counts, sizes, names, limit, classes, weights
        )

    def at(self, targets: Tensor, points: Tensor) -> Tensor:
        """Whether points are on segments, interpolated bilinearly between pixels: 0 ... 1.

        targets: (R,), of the T segments. points: (R, P, 2), xy in 0 ... 1 of the image of each. Returns (R, P); pixels
        outside the image count as 0.
        """
        ids = self.ids[targets][:, None]
        return self._interpolated(targets, points, lambda values: values == ids)

    def point_weights(self, targets: Tensor, points: Tensor) -> Tensor | None:
        """The weights of points, (R, P): 0 at unlabelled pixels, 1 at others, interpolated bilinearly between pixels of
        the image. None: all are 1.

        targets, points: the arguments of `at`.
        """
        limit = self.limit
        if limit is None:
            return None
        labelled = self._interpolated(targets, points, lambda values: (values >= 0) & (values < limit))
        return labelled / self._interpolated(targets, points, torch.ones_like)

    def _interpolated(self, targets: Tensor, points: Tensor, test: Callable[[Tensor], Tensor]) -> Tensor:
        """The share of a point's four pixels that are inside of the image and whose values pass the test, (R, P)."""
        extents = self.extents[targets]
        width, height = extents.T[:, :, None]  # (R, 1) each
        (x, weights_x), (y, weights_y) = map(_nearest_pixels, points.unbind(-1), (width, height))  # (2, R, P) each
        x, y = (x * height, y) if self.coded else (x, y * width)
        x = x + self.starts[targets][:, None]
        value = points.new_zeros(())
        for row, weight in zip(y, weights_y, strict=True):
            inside = torch.searchsorted(self.maps, x + row, right=True) & 1 if self.coded else test(self.maps[x + row])
            value = value + weight * (weights_x * inside).sum(0)
        return value


def segment_counts(targets: Sequence[Targets], task: Task, num_classes: int) -> list[int]:
    """The number of segments of each labelled image, as `MaskSegments.of` counts them. A map without segments has no
    labelled pixel, and its image is not counted."""
    if task == "instance":
        return [len(target["labels"]) for target in targets]
    counts = [len(ids) for ids in segment_ids([target[task] for target in targets], targets, task, num_classes)]
    return [count for count in counts if count]


def segment_ids(maps: Sequence[Tensor], targets: Sequence[Targets], task: Task, num_classes: int) -> list[list[int]]:
    """The ids of the segments of each map, panoptic or semantic, in order. One transfer of maps on a device to the CPU.

    Void, ignored pixels, classes of `num_classes` and above, and the targets' `panoptic_crowds` are no segments.
    """
    maps = [_without_crowds(x, target, task) for x, target in zip(maps, targets, strict=True)]
    return _ids_and_void(maps, task, num_classes)[0]


def _without_crowds(ids: Tensor, target: Targets, task: Task) -> Tensor:
    """A map whose crowds are void, if it is panoptic."""
    crowds = [int(x) for x in target.get("panoptic_crowds", ())]
    if not crowds or task != "panoptic":
        return ids
    return torch.where(torch.isin(ids, to_device(torch.tensor(crowds, dtype=ids.dtype), ids.device)), VOID, ids)


def _ids_and_void(maps: Sequence[Tensor], task: Task, num_classes: int) -> tuple[list[list[int]], bool]:
    """The ids of the segments of each map, in order, and whether a map has other pixels. One transfer of maps
    on a device to the CPU."""
    if not maps:
        return [], False
    present = torch.stack([_present(x, _limit(task, num_classes)) for x in maps]).cpu()
    return [torch.nonzero(row[:-1])[:, 0].tolist() for row in present], bool(present[:, -1].any())


def _limit(task: Task, num_classes: int) -> int:
    """The exclusive upper bound of segment ids."""
    return num_classes * LABEL_DIVISOR if task == "panoptic" else min(num_classes, IGNORE)


def _nearest_pixels(points: Tensor, size: Tensor) -> tuple[Tensor, Tensor]:
    """The two pixels next to points (R, P), 0 ... 1, along an axis of this size (R, 1), and their weights, which are 0
    outside: (2, R, P) each."""
    position = points * size - 0.5
    first = position.floor()
    pixels = torch.stack([first, first + 1])
    weights = (1 - (position - pixels).abs()) * ((pixels >= 0) & (pixels < size))
    return pixels.long().clamp(min=0).minimum(size - 1), weights


def _present(ids: Tensor, limit: int) -> Tensor:
    """Whether each id below the limit occurs, and any other. Returns (limit + 1,) bool."""
    index = torch.where((ids >= 0) & (ids < limit), ids.long(), limit).flatten()
    return torch.zeros(limit + 1, dtype=torch.bool, device=ids.device).index_fill_(0, index, True)


def chunks(layers: int, values: int) -> Iterator[slice]:
    """Slices of decoder layers: as many at once as memory allows.

    values: the number of values in the maps of one layer.
    """
    step = max(1, _CHUNK // max(1, values))
    for first in range(0, layers, step):
        yield slice(first, min(first + step, layers))


def sample(maps: Tensor, points: Tensor, padding_mode: PaddingMode = "zeros") -> Tensor:
    """Bilinear samples of maps (N, C, h, w) at points (N, P, 2), xy in 0 ... 1 of the map. Returns (N, C, P).

    padding_mode: the argument of `F.grid_sample`, for points within half a cell of the border: "zeros" as in
    Mask2Former, "border" as in RF-DETR.
    """
    grid = 2.0 * points[:, :, None] - 1.0
    return F.grid_sample(maps, grid, padding_mode=padding_mode, align_corners=False)[..., 0]


def random_points(count: int, num_points: int, device: torch.device, generator: torch.Generator | None) -> Tensor:
    """Uniform points (count, num_points, 2), in 0 ... 1."""
    return torch.rand(count, num_points, 2, device=device, generator=generator)


@torch.no_grad()
def uncertain_points(
    maps: Tensor,
    scale: Tensor,
    num_points: int,
    generator: torch.Generator | None,
    point_weights: Callable[[Tensor], Tensor | None] = lambda points: None,
    padding_mode: PaddingMode = "zeros",
) -> Tensor:
    """Points for the mask losses: three quarters have the logits nearest 0 among random candidates, the others are
    random.

    maps: logits (N, h, w). scale: (N, 2), the share of columns and rows of each map that are the image. point_weights:
    returns the weights (N, P) of points (N, P, 2), None if all are 1; points of weight 0 are not chosen as uncertain if
    there are enough others. padding_mode: the argument of `sample`. Returns (N, num_points, 2), xy in 0 ... 1 of the
    image.
    """
    candidates = random_points(len(maps), int(num_points * OVERSAMPLING), maps.device, generator)
    uncertainty = -sample(maps[:, None], candidates * scale[:, None], padding_mode)[:, 0].abs()  # (N, 3P)
    weight = point_weights(candidates)
    if weight is not None:
        uncertainty = uncertainty.masked_fill(weight <= 0, float("-inf"))
    best = uncertainty.topk(int(IMPORTANCE * num_points), dim=1).indices
    chosen = candidates.gather(1, best[..., None].expand(-1, -1, 2))
    random = random_points(len(maps), num_points - best.shape[1], maps.device, generator)
    return torch.cat([chosen, random], dim=1)
