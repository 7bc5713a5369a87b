"""Overlaps of boxes beside torchvision's, and Hungarian matching beside transformers'."""

import pytest
import torch
from torch import Tensor

from densevit.errors import DensevitError
from densevit.losses.boxes import overlaps
from densevit.losses.matching import Objects, hungarian


def random_boxes(count: int) -> torch.Tensor:
    low = torch.rand(count, 2)
    return torch.cat([low, low + torch.rand(count, 2)], dim=1)


def test_overlaps_of_all_pairs_match_torchvision():
    from torchvision.ops import box_iou, generalized_box_iou

    a, b = random_boxes(40), random_boxes(30)
    iou, giou = overlaps(a[:, None], b)
    torch.testing.assert_close(iou, box_iou(a, b))
    torch.testing.assert_close(giou, generalized_box_iou(a, b))
    torch.testing.assert_close(overlaps(a[:30], b)[0], iou.diagonal())  # of pairs


def test_gradients_match_torchvision_and_are_finite_for_points():
    from torchvision.ops import generalized_box_iou

    a = random_boxes(20).requires_grad_()
    b = random_boxes(20)
    (own,) = torch.autograd.grad(overlaps(a, b)[1].sum(), a)
    (theirs,) = torch.autograd.grad(generalized_box_iou(a, b).diagonal().sum(), a)
    torch.testing.assert_close(own, theirs)

    points = torch.tensor([[0.5, 0.5, 0.5, 0.5], [0, 0, 0, 0], [0.2, 0.2, 0.2, 0.8]], requires_grad=True)
    (gradient,) = torch.autograd.grad(overlaps(points, torch.tensor([0.2, 0.2, 0.8, 0.8]))[1].sum(), points)
    assert gradient.isfinite().all()


def scene(counts: list[int], K: int = 3) -> list[dict]:
    """Random targets with `counts` objects per image, in images of 80 x 40 (h, w)."""
    targets = []
    for i, count in enumerate(counts):
        low = torch.rand(count, 2) * torch.tensor([30.0, 60.0])
        boxes = torch.cat([low, low + 2 + 8 * torch.rand(count, 2)], dim=1)
        targets.append({"boxes": boxes, "labels": torch.randint(K, (count,)), "size": (80, 40), "image_id": f"no {i}"})
    return targets


def predictions(L: int, B: int, Q: int, K: int = 3) -> tuple[Tensor, Tensor]:
    """Logits for K classes and "no object", and boxes."""
    return 2 * torch.randn(L, B, Q, K + 1), 0.05 + 0.9 * torch.rand(L, B, Q, 4)


def objects_of(targets: list[dict]) -> Objects:
    return Objects.of(targets, torch.device("cpu"))


def test_boxes_are_normalised_by_the_size_of_their_image():
    targets = [
        {"boxes": torch.tensor([[10.0, 20.0, 30.0, 60.0]]), "labels": torch.tensor([2]), "size": (80, 40)},
        {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.long), "size": (8, 8), "image_id": "empty"},
        {"boxes": torch.tensor([[0.0, 0.0, 5.0, 5.0], [5.0, 0.0, 10.0, 20.0]]), "labels": torch.tensor([0, 1]),
         "size": (20, 10), "image_id": 7},
    ]  # fmt: skip
    objects = objects_of(targets)
    expected = [[0.5, 0.5, 0.5, 0.5], [0.25, 0.125, 0.5, 0.25], [0.75, 0.5, 0.5, 1.0]]
    assert objects.boxes.tolist() == expected
    assert objects.labels.tolist() == [2, 0, 1]
    assert objects.image.tolist() == [0, 2, 2]
    assert objects.counts == [1, 0, 2]
    assert objects.names == [0, "empty", 7]


def test_assignment_matches_transformers():
    from transformers.loss.loss_for_object_detection import HungarianMatcher

    counts = [5, 0, 12, 1, 30]
    targets = scene(counts)
    logits, boxes = predictions(3, len(counts), 20)  # fewer than the objects of the last image
    objects = objects_of(targets)
    found = hungarian(logits, boxes, objects)
    columns = (found.layer.expand_as(found.query), found.image.expand_as(found.query), found.query, found.target)
    quadruples = set(zip(*(x.flatten().tolist() for x in columns), strict=True))

    matcher = HungarianMatcher(class_cost=1, bbox_cost=5, giou_cost=2)
    parts = objects.boxes.split(counts)
    labels = [{"class_labels": t["labels"], "boxes": part} for t, part in zip(targets, parts, strict=True)]
    expected = set()
    for layer in range(3):
        pairs = matcher({"logits": logits[layer], "pred_boxes": boxes[layer]}, labels)
        for image, (queries, own) in enumerate(pairs):
            first = sum(counts[:image])
            expected |= {(layer, image, q, first + t) for q, t in zip(queries.tolist(), own.tolist(), strict=True)}
    assert quadruples == expected


@pytest.mark.parametrize("wrong", ["logit", "box", "truth"])
def test_a_cost_that_is_not_finite_names_the_image(wrong: str):
    logits, boxes = predictions(2, 3, 4)
    targets = scene([2, 0, 3])
    if wrong == "logit":
        logits[1, 2, 3] = float("nan")
    elif wrong == "box":
        boxes[1, 2, 3, 0] = float("inf")
    else:
        targets[2]["boxes"][1, 0] = float("nan")
    with pytest.raises(DensevitError, match="'no 2'") as error:
        hungarian(logits, boxes, objects_of(targets))
    said = "the matching cost of object 1 with" if wrong == "truth" else "with query 3 of decoder layer 1 is"
    assert said in str(error.value) and "clip" in str(error.value)
