"""Class-wise NMS against brute force: an image alone, in batches, and in all heads that use it."""

import inspect
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from densevit import registry
from densevit.config import InferenceSection
from densevit.interfaces import Class, Predictions
from densevit.layers.nms import class_nms
from densevit.model.duplicate_boxes import without_duplicates

IOU = 0.6
Boxes = tuple[Tensor, Tensor, Tensor]


def objects(count: int, classes: int, pixels: int, iou: float = IOU, seed: int = 0) -> Boxes:
    """Boxes (N, 4), scores (N,) and classes (N,) of pairs whose IoU is close to a threshold, but not within 1e-6."""
    rng = np.random.default_rng(seed)
    half = count // 2
    low, side = rng.uniform(0, pixels - 48, (half, 2)), rng.uniform(12, 24, (half, 2))
    shift = side[:, :1] * (1 - iou) / (1 + iou) * (1 + rng.uniform(-4e-4, 4e-4, (half, 1)))  # (w - d) / (w + d) is IoU
    first = np.concatenate([low, low + side], 1)
    second = first + np.concatenate([shift, 0 * shift] * 2, 1)
    boxes = np.concatenate([first, second]).astype(np.float32)
    numbers = np.tile(rng.integers(max(0, classes - 200), classes, half), 2)
    scores = rng.permutation(np.linspace(0.3, 0.9, 2 * half)).astype(np.float32)
    rows = ~close(boxes, numbers, iou)
    assert half < rows.sum()
    return torch.from_numpy(boxes[rows]), torch.from_numpy(scores[rows]), torch.from_numpy(numbers[rows])


def close(boxes: np.ndarray, classes: np.ndarray, iou: float = IOU) -> np.ndarray:
    """Which boxes have an IoU within 1e-6 of the threshold with another box of their class, (N,)."""
    return np.array([(abs(x - iou) <= 1e-6).any() for x in overlaps_in_class(boxes, classes)])


def overlaps_in_class(boxes: np.ndarray, classes: np.ndarray) -> Iterator[np.ndarray]:
    """The IoUs of each box and the others of its class."""
    for i, number in enumerate(classes):
        same = np.flatnonzero(classes == number)
        yield overlap(boxes[i], boxes[same[same != i]])


def overlap(box: np.ndarray, others: np.ndarray) -> np.ndarray:
    """The IoU (M,) of a box (4,) and others (M, 4), in float32."""
    assert box.dtype == others.dtype == np.float32
    low, high = np.maximum(box[:2], others[:, :2]), np.minimum(box[2:], others[:, 2:])
    common = np.clip(high - low, 0, None).prod(1)
    areas = [(x[..., 2:] - x[..., :2]).prod(-1) for x in (box, others)]
    result: np.ndarray = common / (areas[0] + areas[1] - common)
    return result


def brute_force(boxes: Tensor, scores: Tensor, classes: Tensor, iou: float = IOU) -> list[int]:
    """The rows that greedy NMS keeps in each class, by descending score."""
    x, numbers = boxes.numpy(), classes.numpy()
    kept: list[int] = []
    for i in np.argsort(-scores.numpy(), kind="stable").tolist():
        better = [row for row in kept if numbers[row] == numbers[i]]
        if not (overlap(x[i], x[better]) > iou).any():
            kept.append(i)
    return kept


# ---- the function ----

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
    assert (np.concatenate([*overlaps_in_class(boxes.numpy(), classes.numpy())]) == 0.5).sum() > 30
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


# ---- heads ----


def one_stage(head: Any, images: list[Boxes], size: int) -> dict[str, Any]:
    boxes, logits = _rows(head, images)
    relative = boxes / size
    centred = torch.cat([(relative[..., :2] + relative[..., 2:]) / 2, relative[..., 2:] - relative[..., :2]], -1)
    return {"logits": logits, "boxes": centred, "padding": (logits < -50).all(-1)}


def fcos(head: Any, images: list[Boxes], size: int) -> dict[str, Any]:
    boxes, logits = _rows(head, images)
    anchors = torch.tensor([[size / 2 - 4, size / 2 - 4, size / 2 + 4, size / 2 + 4]]).expand(boxes.shape[1], 4)
    distances = torch.cat([size / 2 - boxes[..., :2], boxes[..., 2:] - size / 2], -1) / 8  # of an anchor's side
    centerness = torch.full_like(logits[..., :1], 50.0)
    levels = [boxes.shape[1] // 2, boxes.shape[1] - boxes.shape[1] // 2]
    return {"logits": logits, "distances": distances, "centerness": centerness, "anchors": anchors, "levels": levels}


def faster_rcnn(head: Any, images: list[Boxes], size: int) -> dict[str, Any]:
    counts = [len(image[0]) for image in images]
    scores, labels = (torch.cat([image[k] for image in images]) for k in (1, 2))
    logits = torch.full((sum(counts), len(head.classes) + 1), -100.0)
    logits[:, 0] = (1 - scores).log()
    logits[torch.arange(len(labels)), labels + 1] = scores.log()
    deltas = torch.zeros(sum(counts), 4 * (len(head.classes) + 1))
    return {"logits": logits, "box_deltas": deltas, "proposals": [image[0] for image in images]}


def _rows(head: Any, images: list[Boxes]) -> tuple[Tensor, Tensor]:
    """Boxes (B, N, 4) and logits (B, N, K) of images, padded to 800 rows."""
    boxes, logits = torch.zeros(len(images), 800, 4), torch.full((len(images), 800, len(head.classes)), -100.0)
    for i, (x, scores, labels) in enumerate(images):
        boxes[i, : len(x)] = x
        logits[i, torch.arange(len(x)), labels] = scores.logit()
    return boxes, logits


OUTPUTS: dict[str, Callable[..., dict[str, Any]]] = {"one_stage": one_stage, "fcos": fcos, "faster_rcnn": faster_rcnn}
HEADS = {
    name: cls
    for name, cls in ((name, registry.load("heads", name)) for name in registry.find("heads"))
    if "nms" in inspect.signature(cls).parameters
}


def test_every_head_with_nms_has_outputs() -> None:
    assert {*HEADS} == {*OUTPUTS}


@pytest.mark.parametrize(("classes", "pixels"), [(80, 1333), (1300, 1333), (365, 10_000)])
@pytest.mark.parametrize("name", HEADS)
def test_heads_predict_the_boxes_of_brute_force_alone_and_in_a_batch(name: str, classes: int, pixels: int) -> None:
    """What brute force keeps of the boxes that the head has without NMS, which is with an IoU of 1."""
    torch.manual_seed(0)
    names = [Class(str(i), i, (0, 0, 0)) for i in range(classes)]
    options: Any = {"max_predictions": 10_000, "width": 64} | ({} if name == "one_stage" else {"score_threshold": 0.1})
    head, without = (HEADS[name]((8,) * 3, (8, 16, 32), names, nms=iou, **options) for iou in (IOU, 1.0))
    images = [objects(n, classes, pixels, seed=n) for n in (800, 300, 20)]
    target = {"size": (pixels, pixels), "original_size": (pixels, pixels)}

    def predicted(head: Any, images: list[Boxes]) -> list[Predictions]:
        return head.predict(OUTPUTS[name](head, images, pixels), [target] * len(images))

    for image, in_batch, every in zip(images, predicted(head, images), predicted(without, images), strict=True):
        [alone] = predicted(head, [image])
        assert len(every["boxes"]) == len(image[0])
        every = {key: value.cpu() for key, value in every.items()}
        clear = ~close(every["boxes"].numpy(), every["labels"].numpy())  # of boxes that the head has rounded
        expected = [row for row in brute_force(*(every[key] for key in ("boxes", "scores", "labels"))) if clear[row]]
        for values in (alone, in_batch):
            assert rows_of(values) - rows_of(every, ~clear) == rows_of(every, expected)


def rows_of(values: Predictions, rows: Any = slice(None)) -> set[tuple[float, ...]]:
    """Each object's box, score and label."""
    columns = values["boxes"], values["scores"][:, None], values["labels"][:, None]
    return {tuple(row) for row in torch.cat(columns, 1)[rows].tolist()}


def test_proposals_are_those_of_brute_force_on_each_level() -> None:
    options: Any = {"width": 64, "num_proposals": 5000}
    head = HEADS["faster_rcnn"]((8,) * 3, (4, 8, 16), [Class("a", 0, (0, 0, 0))], **options).eval()
    boxes, scores, levels = objects(2000, 5, 10_000, 0.7)
    order = levels.argsort(stable=True)  # anchors are in the order of levels
    boxes, logits, counts = boxes[order], scores[order].logit(), levels.bincount().tolist()
    kept = brute_force(boxes, logits.sigmoid(), levels[order], 0.7)
    for batch in (1, 3):
        proposals = head._proposals(
            boxes.expand(batch, -1, 4), logits.expand(batch, -1), [(10_000, 10_000)] * batch, counts
        )
        assert all(torch.equal(found, boxes[kept]) for found in proposals)


def test_duplicates_of_predictions_are_those_of_brute_force() -> None:
    boxes, scores, labels = objects(800, 1300, 10_000)
    kept = brute_force(boxes, scores, labels)
    [found] = without_duplicates(
        {"x": [{"boxes": boxes, "scores": scores, "labels": labels}]}, {"x": InferenceSection(nms=IOU)}
    )["x"]
    assert torch.equal(found["boxes"], boxes[kept])
