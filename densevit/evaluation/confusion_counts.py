"""Exact confusion counts of two label maps, computed on their device without synchronisation."""

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from densevit.interfaces import IGNORE

EXACT = 1 << 24  # pixels; OpenCV returns counts in float32, which represents integers exactly up to this
LANES = 64  # copies of the counters, against contention of atomic additions for frequent classes


def count_pairs(rows: Tensor, columns: Tensor, size: int) -> Tensor:
    """The number of pixels with each pair of labels.

    rows, columns: (H, W) uint8, on one device. Pixels where either label is `size` or more are left out.
    Returns (size, size) int64 on that device; [i, j] is the number of pixels that are i in `rows` and j in `columns`.
    """
    on_cpu = rows.device.type == "cpu"
    return _count_on_cpu(rows, columns, size) if on_cpu else _count_on_device(rows, columns, size)


def _count_on_cpu(rows: Tensor, columns: Tensor, size: int) -> Tensor:
    maps = [np.ascontiguousarray(labels.numpy()).reshape(1, -1) for labels in (rows, columns)]
    counts = np.zeros((size, size), dtype=np.int64)
    for start in range(0, maps[0].size, EXACT):
        part = [labels[:, start : start + EXACT] for labels in maps]
        counts += cv2.calcHist(part, [0, 1], None, [size, size], [0, size, 0, size]).astype(np.int64)
    return torch.from_numpy(counts)


def _count_on_device(rows: Tensor, columns: Tensor, size: int) -> Tensor:
    """Counts by atomic additions; `torch.bincount` would synchronise to size its result."""
    side = size + 1  # the last row and column count excluded pixels
    counts = torch.zeros(LANES * side**2, dtype=torch.int64, device=rows.device)
    for row, column in zip(rows.flatten().split(EXACT), columns.flatten().split(EXACT), strict=True):  # bounds memory
        pairs = row.int().clamp(max=size) * side + column.int().clamp(max=size)
        lane = torch.arange(len(pairs), device=pairs.device) % LANES
        counts.scatter_add_(0, lane * side**2 + pairs, counts.new_ones(()).expand_as(lane))
    return counts.view(LANES, side, side).sum(0)[:size, :size]


def labelled_pixels(truth: Tensor) -> Tensor:
    """The number of pixels that are not IGNORE, (), on the device of `truth`."""
    if truth.device.type == "cpu":
        return torch.tensor(np.count_nonzero(truth.numpy() != IGNORE))
    return (truth != IGNORE).count_nonzero()


def invalid_labels(truth: Tensor, prediction: Tensor, classes: int) -> Tensor:
    """Finds invalid labels, at pixels that are not IGNORE in the ground truth.

    truth, prediction: (H, W) uint8, on one device.
    Returns (4,) int64 on that device: the largest invalid label of the ground truth and its number of pixels, then the
    same for the prediction; zeros if all labels are valid.
    """
    largest_and_pixels = []
    for labels in (truth, prediction):
        wrong = torch.where((labels >= classes) & (truth != IGNORE), labels, 0)
        largest = wrong.amax()
        largest_and_pixels += [largest.long(), ((wrong == largest) & (wrong > 0)).sum()]
    return torch.stack(largest_and_pixels)


def boundary(labels: Tensor, width: int, fill: int) -> Tensor:
    """Keeps the labels of each region's boundary; all other pixels become `fill`.

    A pixel belongs to the boundary if the square of 2 `width` + 1 pixels around it contains another label or extends
    beyond the image: the pixels that Cheng et al. 2021 erode from the region's mask (their `mask_to_boundary`), for all
    classes at once.

    labels: (H, W) uint8; IGNORE counts as outside the image. Returns (H, W) uint8.
    """
    ends = _extremes_on_cpu(labels, width) if labels.device.type == "cpu" else _extremes_on_device(labels, width)
    least, most = ends
    return torch.where((least == most) | (labels == IGNORE), fill, labels)


def _extremes_on_cpu(labels: Tensor, width: int) -> tuple[Tensor, Tensor]:
    pixels, square = np.ascontiguousarray(labels.numpy()), np.ones((2 * width + 1, 2 * width + 1), np.uint8)
    least = cv2.erode(pixels, square, borderType=cv2.BORDER_CONSTANT, borderValue=IGNORE)
    most = cv2.dilate(pixels, square, borderType=cv2.BORDER_CONSTANT, borderValue=IGNORE)
    return torch.from_numpy(least), torch.from_numpy(most)


def _extremes_on_device(labels: Tensor, width: int) -> tuple[Tensor, Tensor]:
    """Pools along rows, then along columns, in float16, which represents 0 ... 255 exactly."""
    framed = F.pad(labels[None, None].half(), (width,) * 4, value=IGNORE)
    window = 2 * width + 1
    most, less = (F.max_pool2d(F.max_pool2d(x, (window, 1), 1), (1, window), 1) for x in (framed, -framed))
    return -less[0, 0], most[0, 0]
