"""Class-wise NMS against brute force: an image alone and in batches. Parity tests compare the heads with it."""

import numpy as np
import pytest
import torch
from torch import Tensor
from torchvision.ops import box_iou

from densevit.layers.nms import class_nms

IOU = 0.6


def objects(count: int, classes: int, pixels: int, iou: float = IOU, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Boxes (N, 4), scores (N,) and classes (N,) of pairs whose IoU is close to a threshold, but not within 1e-6."""
    rng = np.random.default_rng(seed)
    half = count // 2
    low, side = rng.uniform(0, pixels - 48, (half, 2)), rng.uniform(12, 24, (half, 2))
    shift = side[:, :1] * (1 - iou) / (1 + iou) * (1 + rng.uniform(-4e-4, 4e-4, (half, 1)))  # (w - d) / (w + d) is IoU
    first = np.concatenate([low, low + side], 1)
    second = first + np.concatenate([shift, 0 * shift] * 2, 1)
    boxes = torch.from_numpy(np.concatenate([first, second])).float()
    numbers = torch.from_numpy(np.tile(rng.integers(max(0, classes - 200), classes, half), 2))
    scores = torch.from_numpy(rng.permutation(np.linspace(0.3, 0.9, 2 * half))).float()
    rows = ((ious_in_class(boxes, numbers) - iou).abs() > 1e-6).all(1)
    assert half < rows.sum()
    return boxes[rows], scores[rows], numbers[rows]


def ious_in_class(boxes: Tensor, classes: Tensor) -> Tensor:
    """The IoUs (N, N) of boxes of one class; 0 for a box and itself, and for other classes."""
    return box_iou(boxes, boxes) * (classes[:, None] == classes).fill_diagonal_(False)


def brute_force(boxes: Tensor, scores: Tensor, classes: Tensor, iou: float = IOU) -> list[int]:
    """The rows that greedy NMS keeps in each class, by descending score."""
    overlaps = ious_in_class(boxes, classes) > iou
    kept: list[int] = []
    for i in scores.argsort(descending=True, stable=True).tolist():
        if not overlaps[i, kept].any():
            kept.append(i)
    return kept


SIZES = [(1, 64), (3, 640), (80, 640), (80, 10_000), (365, 1333), (1300, 1333), (1300, 10_000)]


@pytest.mark.parametrize(("classes", "pixels"), SIZES)
def test_an_image_has_the_boxes_of_brute_force_alone_and_in_any_batch(classes: int, pixels: int) -> None:
    images = [objects(n, classes, pixels, seed=i) for i, n in enumerate((400, 2, 30, 800))]
    expected = [brute_force(*image) for image in images]
    assert all(0 < len(kept) <= len(image[0]) for kept, image in zip(expected, images, strict=True))
    assert sum(map(len, expected)) < sum(len(image[0]) for image in images)
    for image, kept in zip(images, expected, strict=True):
        assert class_nms(*image, IOU).tolist() == kept
    for batch in (2, 8, 32):
        repeated = [images[i % 4] for i in range(batch)]
        boxes, scores, _ = (torch.cat(values) for values in zip(*repeated, strict=True))
        groups = torch.cat([i * classes + image[2] for i, image in enumerate(repeated)])
        found = class_nms(boxes, scores, groups, IOU)
        assert torch.equal(scores[found], scores[found].sort(descending=True).values)
        starts = np.cumsum([0, *(len(image[0]) for image in repeated)])
        for i in range(batch):
            rows = found[(found >= starts[i]) & (found < starts[i + 1])] - starts[i]
            assert rows.tolist() == expected[i % 4], (batch, i)


def test_pairs_of_exactly_the_threshold_do_not_depend_on_the_batch() -> None:
    """Of boxes in whole pixels many have an IoU of 0.5; the largest coordinate of the others is no whole number."""
    generator = torch.Generator().manual_seed(0)
    low = torch.randint(0, 5, (300, 2), generator=generator).float()
    boxes = torch.cat([low, low + torch.randint(1, 5, (300, 2), generator=generator)], 1)
    scores, classes = torch.rand(300, generator=generator), torch.randint(0, 30, (300,), generator=generator)
    assert (ious_in_class(boxes, classes) == 0.5).sum() > 30
    alone = class_nms(boxes, scores, classes, 0.5).tolist()
    assert alone == brute_force(boxes, scores, classes, 0.5)
    for largest in (77.3, 1333.7, 9999.9):
        other = torch.tensor([[0.1, 0.2, largest, largest]])
        found = class_nms(
            torch.cat([other, boxes]),
            torch.cat([scores[:1], scores]),
            torch.cat([classes[:1] + 900, 31 + classes]),
            0.5,
        )
        assert (found[found > 0] - 1).tolist() == alone


def test_negative_coordinates_and_no_boxes() -> None:
    """A class does not reach into the next where coordinates are negative."""
    boxes = torch.tensor([[0.0, 0, 10, 10], [-11, -11, -1, -1]])
    assert class_nms(boxes, torch.tensor([0.5, 0.9]), torch.tensor([0, 1]), 0.1).tolist() == [1, 0]
    assert class_nms(boxes[:0], boxes[:0, 0], torch.zeros(0, dtype=torch.int64), IOU).tolist() == []
