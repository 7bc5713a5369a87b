"""Targets that a head cannot learn from are one line at each door: `forward`, `loss`, and the step of a training."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch

import densevit
from densevit import registry
from densevit.errors import DataError
from densevit.interfaces import LossContext
from densevit.model.batch_checks import check_batch
from densevit.training.loop.supervised_method import Supervised

CLASSES = [densevit.Class(name, number, (0, 0, 0)) for number, name in enumerate("ab")]
Door = Callable[[densevit.DenseModel, dict[str, Any], list[dict[str, Any]]], Any]


DOORS: list[Door] = [
    lambda model, batch, targets: model.losses_of(model({**batch, "targets": [{}, {}]}), targets),  # of a loop by hand
    lambda model, batch, targets: model({**batch, "targets": targets}),
    lambda model, batch, targets: Supervised(model).training_step(model, {**batch, "targets": targets}, LossContext()),
]


@pytest.fixture(scope="module")
def model() -> densevit.DenseModel:
    backbone = densevit.create_backbone("resnet", depth=18)
    head = densevit.create_head("box_query_detr", backbone.channels, backbone.strides, CLASSES, num_queries=4)
    return densevit.DenseModel(backbone, {"detection": head}).train()


def batch_and_targets(**change: Any) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Two images; the second has the changes. None removes a key."""
    images, mask = torch.zeros(2, 3, 64, 64, dtype=torch.uint8), torch.zeros(2, 64, 64, dtype=torch.bool)
    box, size = torch.tensor([[8.0, 8.0, 24.0, 40.0]]), (64, 64)
    target = {"image_id": 3, "size": size, "original_size": size, "boxes": box, "labels": torch.tensor([1])}
    changed = {key: value for key, value in {**target, **change}.items() if value is not None}
    no_objects = {**target, "image_id": 2, "boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.long)}
    return {"images": images, "padding_mask": mask}, [no_objects, changed]


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"size": None}, r"targets\[1\] lacks 'size'; found: .* Fix: set it to \(height, width\)"),
        ({"size": (64.0, 64.0)}, r"targets\[1\]: size is .* a tuple of two ints"),
        ({"labels": torch.tensor([2])}, "image 3: labels ranges from 2 to 2; expected 0 to 1"),
        ({"labels": torch.tensor([-1])}, r"labels ranges from -1 to -1; expected 0 to 1"),
        ({"labels": ["b"]}, "image 3: labels is a list; expected a tensor"),
        ({"labels": torch.tensor([1.0])}, r"labels has the type float32; expected integers"),
        ({"boxes": torch.tensor([[40.0, 40.0, 8.0, 8.0]])}, "boxes have x2 < x1 or y2 < y1 in 1 of 1: are they xywh"),
        ({"boxes": [[8.0, 8.0, 24.0, 40.0]]}, "image 3: boxes is a list; expected a tensor"),
    ],
)
def test_each_door_names_what_is_wrong_with_targets(model: Any, door: Door, change: Any, message: str) -> None:
    door(model, *batch_and_targets())
    with pytest.raises(DataError, match=message):
        door(model, *batch_and_targets(**change))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (None, "is a list"),
        ({"targets": None}, "lacks targets; found: images, padding_mask"),
        ({"images": torch.zeros(2, 3, 64, 64)}, r"images is float32 \(2, 3, 64, 64\); uint8 \(B, 3, H, W\), RGB"),
        ({"padding_mask": torch.zeros(2, 9, 9, dtype=torch.bool)}, r"padding_mask is .*; bool \(2, 64, 64\)"),
        ({"targets": [{}]}, "targets is a list of 1; a list of 2 dicts"),
    ],
)
def test_what_is_no_batch_is_named(change: Any, message: str) -> None:
    batch, targets = batch_and_targets()
    check_batch({**batch, "targets": targets})
    changed = {key: x for key, x in {**batch, "targets": targets, **(change or {})}.items() if x is not None}
    with pytest.raises(DataError, match=f"^The loader's first batch:? {message}"):
        check_batch([] if change is None else changed)


@pytest.mark.parametrize("door", DOORS)
def test_relative_boxes_are_an_error_in_the_first_batch(model: Any, door: Door) -> None:
    """Later, a crop may leave only a part of its first pixel."""
    relative = {"boxes": torch.tensor([[0.1, 0.1, 0.5, 0.8]])}
    model.checked.clear()
    with pytest.raises(DataError, match=r"boxes all lie within 0 \.\.\. 1 .* are they relative"):
        door(model, *batch_and_targets(**relative))
    door(model, *batch_and_targets())
    door(model, *batch_and_targets(**relative))


def test_a_batch_of_wrong_values_is_named() -> None:
    batch, targets = batch_and_targets(semantic=torch.zeros(32, 32, dtype=torch.uint8))
    with pytest.raises(DataError, match=r"^The loader's first batch: image 3: semantic has shape \(32, 32\)"):
        check_batch({**batch, "targets": targets})


def test_classes_are_names_or_their_number() -> None:
    backbone = densevit.create_backbone("resnet", depth=18)
    for classes in (["cat", "1"], (densevit.Class("cat", 0, (255, 38, 38)), "1")):
        head = registry.load("heads", "box_query_detr")(backbone.channels, backbone.strides, classes)
        assert [c.name for c in densevit.DenseModel(backbone, {"x": head}).classes["x"]] == ["cat", "1"]
    assert [c.name for c in densevit.create_evaluator("detection", 2).classes] == ["0", "1"]


@pytest.mark.parametrize(
    ("targets", "options", "message"),
    [
        ([{"boxes": torch.zeros(0, 4)}], {}, r"targets\[0\] is a dict; a list of dicts"),
        ([{"images": None, "targets": []}], {}, r"targets\[0\] is a dict; .*Fix: loss_context\(\[batch\[\"targets\"\]"),
        (torch.zeros(2, 8, 8, dtype=torch.long), {}, r"targets is int64 \(2, 8, 8\); at least 1 batch"),
        ([torch.zeros(2, 8, 8, dtype=torch.long)], {}, r"targets\[0\] is int64 \(2, 8, 8\); a list of dicts"),
        ([], {}, "targets is a list; at least 1 batch"),
        ([[]], {"batches": 0}, "batches=0; at least 1 batch"),
    ],
)
def test_a_loss_context_of_other_targets_is_an_error_and_not_of_no_objects(model, targets, options, message):
    with pytest.raises(DataError, match=message):
        model.loss_context(targets, **options)


@pytest.mark.parametrize("batches", [None, 1])
def test_gradients_of_accumulated_batches_are_those_of_one(model, batches):
    """Losses are divided by the number of batches, or with batches=1 by nothing."""
    batch, targets = batch_and_targets()
    parts = [({key: value[part] for key, value in batch.items()}, targets[part]) for part in (slice(0, 1), slice(1, 2))]
    model, gradients = copy.deepcopy(model).double(), []
    for module in model.modules():
        module.train(not isinstance(module, torch.nn.BatchNorm2d | torch.nn.Dropout))
    for step in ([(batch, targets)], parts):
        context, divisor = model.loss_context([one for _, one in step], batches=batches), 1 if batches else len(step)
        model.zero_grad()
        for images, labels in step:
            (sum(model.loss({**images, "targets": labels}, context=context).values()) / divisor).backward()
        gradients.append([parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None])
    for one, several in zip(*gradients, strict=True):
        torch.testing.assert_close(several, one, rtol=1e-5, atol=1e-6)
