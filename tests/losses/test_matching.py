"""Hungarian matching against brute force over all assignments and transformers' matcher."""

import itertools

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from densevit.errors import DensevitError
from densevit.losses import matching
from densevit.losses.matching import MatchingCosts, Objects, assign, costs, hungarian


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


def test_costs_match_the_paper():
    from torchvision.ops import box_convert, generalized_box_iou

    logits, boxes = predictions(2, 2, 4)
    objects = objects_of(scene([2, 3]))
    found = costs(logits, boxes, objects, MatchingCosts(1.5, 5.0, 2.5), softmax=True)
    for layer, target, query in itertools.product(range(2), range(5), range(4)):
        image = int(objects.image[target])
        box, truth = boxes[layer, image, query], objects.boxes[target]
        p = logits[layer, image, query].softmax(0)[objects.labels[target]]
        corners = (box_convert(x[None], "cxcywh", "xyxy") for x in (box, truth))
        expected = -1.5 * p + 5.0 * (box - truth).abs().sum() - 2.5 * generalized_box_iou(*corners)[0, 0]
        assert found[layer, target, query].item() == pytest.approx(expected.item(), abs=1e-5)


def test_without_softmax_the_class_cost_is_the_difference_of_focal_losses():
    """Deformable DETR: the change of a query's focal loss when the object becomes its target."""
    logits, boxes = predictions(1, 1, 3, K=4)
    objects = objects_of(scene([2], K=4))
    found = costs(logits, boxes, objects, MatchingCosts(1.0, 0.0, 0.0), softmax=False)
    for target, query in itertools.product(range(2), range(3)):
        p = logits[0, 0, query, objects.labels[target]].sigmoid()
        expected = -0.25 * (1 - p) ** 2 * p.log() + 0.75 * p**2 * (1 - p).log()
        assert found[0, target, query].item() == pytest.approx(expected.item(), abs=1e-5)


@pytest.mark.parametrize("counts", [[3, 1], [4, 0], [6, 2]])
def test_no_other_assignment_costs_less(counts: list[int]):
    """Also with six objects and four queries, where the two most expensive stay unmatched."""
    L, Q = 2, 4
    logits, boxes = predictions(L, len(counts), Q)
    objects = objects_of(scene(counts))
    matrix = costs(logits, boxes, objects, MatchingCosts(), softmax=True)
    matches = hungarian(logits, boxes, objects)
    assert len(matches.layer) == L * sum(min(count, Q) for count in counts)
    for layer, (image, count) in itertools.product(range(L), enumerate(counts)):
        own = [
            (t, q)
            for at_layer, at_image, q, t in zip(*(x.tolist() for x in matches), strict=True)
            if (at_layer, at_image) == (layer, image)
        ]
        first = sum(counts[:image])
        block = matrix[layer, first : first + count]
        pairs = min(count, Q)
        assert len({t for t, _ in own}) == len({q for _, q in own}) == pairs == len(own)
        assert all(first <= t < first + count for t, _ in own)
        least = min(
            sum(block[t, q].item() for t, q in zip(rows, columns, strict=True))
            for rows in itertools.combinations(range(count), pairs)
            for columns in itertools.permutations(range(Q), pairs)
        )
        assert sum(matrix[layer, t, q].item() for t, q in own) == pytest.approx(least, abs=1e-4)


def test_assignment_matches_transformers():
    from transformers.loss.loss_for_object_detection import HungarianMatcher

    counts = [5, 0, 12, 1, 30]
    targets = scene(counts)
    logits, boxes = predictions(3, len(counts), 40)
    objects = objects_of(targets)
    found = set(zip(*(x.tolist() for x in hungarian(logits, boxes, objects)), strict=True))

    matcher = HungarianMatcher(class_cost=1, bbox_cost=5, giou_cost=2)
    parts = objects.boxes.split(counts)
    labels = [{"class_labels": t["labels"], "boxes": part} for t, part in zip(targets, parts, strict=True)]
    expected = set()
    for layer in range(3):
        pairs = matcher({"logits": logits[layer], "pred_boxes": boxes[layer]}, labels)
        for image, (queries, own) in enumerate(pairs):
            first = sum(counts[:image])
            expected |= {(layer, image, q, first + t) for q, t in zip(queries.tolist(), own.tolist(), strict=True)}
    assert found == expected


def test_an_own_cost_is_assigned_per_image_and_layer():
    """Two images of two queries, with two objects and one; the second layer has the opposite costs."""
    first = torch.tensor([[0.0, 1.0], [0.0, 3.0], [2.0, 1.0]])  # (T, Q)
    layer, image, query, target = assign(torch.stack([first, -first]), objects_of(scene([2, 1])))
    found = sorted(zip(layer.tolist(), image.tolist(), target.tolist(), query.tolist(), strict=True))
    assert found == [(0, 0, 0, 1), (0, 0, 1, 0), (0, 1, 2, 1), (1, 0, 0, 0), (1, 0, 1, 1), (1, 1, 2, 0)]


def test_without_objects_there_are_no_pairs():
    logits, boxes = predictions(2, 2, 4)
    assert [len(x) for x in hungarian(logits, boxes, objects_of(scene([0, 0])))] == [0, 0, 0, 0]
    nothing = hungarian(logits[:, :0], boxes[:, :0], objects_of([]))
    assert [len(x) for x in nothing] == [0, 0, 0, 0]


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
    said = "object 1 (box [nan" if wrong == "truth" else "with query 3 of decoder layer 1 is"
    assert said in str(error.value) and "clip" in str(error.value)


def test_nan_in_an_image_without_objects_is_ignored():
    logits, boxes = predictions(1, 2, 4)
    logits[0, 1] = float("nan")
    assert hungarian(logits, boxes, objects_of(scene([2, 0]))).image.tolist() == [0, 0]


@pytest.mark.parametrize("softmax", [True, False])
def test_autocast_changes_nothing(softmax: bool):
    logits, boxes = predictions(3, 4, 50)
    objects = objects_of(scene([7, 3, 0, 12]))
    expected = costs(logits, boxes, objects, MatchingCosts(), softmax)
    with torch.autocast("cpu", torch.bfloat16):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.bfloat16, "autocast should be on here"
        torch.testing.assert_close(costs(logits, boxes, objects, MatchingCosts(), softmax), expected, rtol=0, atol=0)
        inside = hungarian(logits, boxes, objects, softmax=softmax)
    outside = hungarian(logits, boxes, objects, softmax=softmax)
    assert all(torch.equal(a, b) for a, b in zip(inside, outside, strict=True))


def test_half_precision_predictions_are_matched_in_fp32():
    logits, boxes = (x.bfloat16() for x in predictions(3, 4, 50))
    objects = objects_of(scene([7, 3, 0, 12]))
    found = costs(logits, boxes, objects, MatchingCosts(), True)
    assert found.dtype == torch.float32
    assert torch.equal(found, costs(logits.float(), boxes.float(), objects, MatchingCosts(), True))


class Crossings(TorchDispatchMode):
    """Counts synchronising operations: scalar reads and results of data-dependent size."""

    waits = ("_local_scalar_dense", "nonzero", "masked_select", "unique", "repeat_interleave.Tensor")

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        name = str(func).removeprefix("aten.")
        if name.startswith(self.waits):
            self.seen.append(name)
        return func(*args, **kwargs or {})


def test_all_layers_are_copied_to_the_cpu_once(monkeypatch: pytest.MonkeyPatch):
    logits, boxes = predictions(6, 4, 20)
    objects = objects_of(scene([5, 0, 2, 9]))
    shapes = []
    to_cpu = Tensor.cpu
    monkeypatch.setattr(Tensor, "cpu", lambda self: shapes.append(tuple(self.shape)) or to_cpu(self))
    with Crossings() as crossings:
        matching.hungarian(logits, boxes, objects)
    assert shapes == [(6, 16, 20)]
    assert crossings.seen == []
