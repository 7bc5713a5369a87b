"""The criterion of mask queries whose maps are constant in the image, so that losses are worked out by hand."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from densevit.losses.context import LossContext
from densevit.set_prediction import mask_criterion, mask_matching, mask_segments
from densevit.set_prediction.mask_criterion import MaskCriterion, image_shares
from densevit.set_prediction.mask_matching import MaskWeights
from densevit.set_prediction.queries import MaskQueries
from densevit.targets import RunLengthMasks

K, POINTS = 2, 4
OPTIONS: Any = (K, 3, POINTS, 4, MaskWeights(2.0, 5.0, 3.0))  # of three queries and masks of stride 4
# The logits of the classes and of "no object", and of the mask in the image, of each layer and query.
CLASSES = torch.tensor([[[3.0, 0, 0], [0, 2, 1], [0, 0, 1]], [[0, 1, 1], [4, 0, 0], [0, 0, 0.5]]])
MASKS = torch.tensor([[2.0, 1.0, -3.0], [0.5, 1.5, -2.0]])
MATCHED = (0, 1)  # the query of each layer that is nearest to the segment, with class 0
LEFT = torch.arange(8).expand(8, 8) < 4  # the segment; the rest is void
MAPS: dict[str, dict[str, Any]] = {
    "panoptic": {"panoptic": torch.where(LEFT, 0, -1)},
    "semantic": {"semantic": torch.where(LEFT, 0, 255)},
    "instance": {"masks": RunLengthMasks.from_dense(LEFT[None], (8, 8)), "labels": torch.tensor([0])},
}
NOTHING: dict[str, dict[str, Any]] = {
    "panoptic": {"panoptic": torch.full((8, 8), -1)},
    "instance": {"masks": RunLengthMasks.from_dense(LEFT[None][:0], (8, 8)), "labels": torch.zeros(0).long()},
}
LOG_PROBABILITIES = CLASSES.log_softmax(-1).tolist()
LABEL = [
    -LOG_PROBABILITIES[i][q][0]
    - 0.1 * sum(row[K] for row in LOG_PROBABILITIES[i] if row is not LOG_PROBABILITIES[i][q])
    for i, q in enumerate(MATCHED)
]
MASK = [math.log(1 + math.exp(-MASKS[i, q].item())) for i, q in enumerate(MATCHED)]
DICE = [1 - (2 * POINTS * math.exp(-x) + 1) / (POINTS * math.exp(-x) + POINTS + 1) for x in MASK]
LAST = {"label": 2 * LABEL[1] / 1.2, "mask": 5 * MASK[1], "dice": 3 * DICE[1]}  # 1.2: the sum of class weights
LOSSES = {**LAST, "auxiliary": 2 * LABEL[0] / 1.2 + 5 * MASK[0] + 3 * DICE[0]}


@pytest.fixture(autouse=True)
def left_half(monkeypatch: pytest.MonkeyPatch) -> None:
    """All points are on the segments; the maps of one layer are computed at once."""
    monkeypatch.setattr(mask_segments, "_CHUNK", 1)
    for module in (mask_criterion, mask_matching, mask_segments):
        monkeypatch.setattr(module, "random_points", lambda n, P, *_: torch.tensor([0.25, 0.5]).expand(n, P, 2))


def make_outputs(of_each_layer: bool = False) -> tuple[MaskQueries, Tensor]:
    """Of three images, which are the upper left quarter of maps of 4 x 4 cells; the others have other values."""
    scale = torch.tensor([2.0, 1.0] if of_each_layer else [1.0, 1.0]).view(2, 1, 1, 1)
    embeddings, pixels = MASKS[:, None, :, None].repeat(1, 3, 1, 1) * scale, torch.full((3, 1, 4, 4), -100.0)
    pixels[..., :3, :3] = 1.0
    pixels = (pixels / scale[..., None] if of_each_layer else pixels).requires_grad_()
    return MaskQueries(CLASSES[:, None].repeat(1, 3, 1, 1).requires_grad_(), embeddings.requires_grad_()), pixels


@pytest.mark.parametrize("of_each_layer", [False, True])
@pytest.mark.parametrize("task", ["panoptic", "semantic", "instance"])
def test_losses_are_those_of_the_labelled_images(task: Any, of_each_layer: bool):
    criterion, outputs = MaskCriterion(task, *OPTIONS, semantic_weight=1.5), make_outputs(of_each_layer)
    targets = [{"size": (8, 8), **MAPS[task]}, {"size": (8, 8)}, {"size": (8, 8), **MAPS[task]}]
    assert criterion.loss_counts(targets) == {"objects": 2, "objects_weights": pytest.approx(2.4)}
    cells = torch.tensor([[1.0, 50.0], [0.0, 50.0]])[:, None].expand(3, K, 2, 2)  # of two columns
    step = LossContext(counts={"objects": torch.tensor(4.0), "objects_weights": torch.tensor(4.8)})
    semantic = 1.5 * math.log(1 + math.exp(-1))
    halves = {name: x / 2 for name, x in {**LOSSES, "semantic": semantic}.items()}
    for case, expected in (
        ({"context": LossContext()}, {**LOSSES, "semantic": 0}),
        ({"context": step, "cells": cells}, halves),
    ):
        losses = criterion.losses(*outputs, targets, **case)
        assert {name: x.item() for name, x in losses.items()} == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(("task", "weight"), [("panoptic", 0.0), ("instance", 0.1)])
def test_images_without_objects_have_no_object_in_all_queries_and_maps_of_void_have_no_part(task: Any, weight: float):
    outputs, criterion = make_outputs(), MaskCriterion(task, *OPTIONS, semantic_weight=1.5)
    targets = [{"size": (8, 8), **MAPS[task]}, {"size": (8, 8)}, {"size": (8, 8), **NOTHING[task]}]
    losses = criterion.losses(*outputs, targets, LossContext())
    label = 2 * (LABEL[1] - weight * sum(row[K] for row in LOG_PROBABILITIES[1])) / (1.2 + 3 * weight)
    assert {name: losses[name].item() for name in LAST} == pytest.approx({**LAST, "label": label}, rel=1e-5)
    cells = torch.randn(3, K, 2, 2, requires_grad=True)
    losses = criterion.losses(*outputs, [{"size": (8, 8)}] * 3, LossContext(), cells=cells)
    assert list(losses) == [*LOSSES, "semantic"] and not any(losses.values())
    gradients = torch.autograd.grad(sum(losses.values()), (*outputs[0], outputs[1], cells))
    assert not any(gradient.any() for gradient in gradients)


def test_the_share_of_an_image_in_its_map_is_of_columns_then_rows():
    assert image_shares([(8, 16), (4, 32)], torch.zeros(2, 3, 4, 8), 4).tolist() == [[0.5, 0.5], [1.0, 0.25]]
