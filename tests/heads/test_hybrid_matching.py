"""Hybrid matching (H-DETR, Jia et al. 2023) against its definition, written out image by image and layer by layer."""

from typing import Any

import pytest
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torchvision.ops import box_convert, generalized_box_iou, sigmoid_focal_loss

from densevit.interfaces import Class, Targets
from densevit.losses.context import LossContext
from densevit_heads.deformable_detr import DeformableDetr
from tests.heads.padded_batch import padded_batch

CLASSES = [Class(str(i), i, (0, 0, 0)) for i in range(3)]
MODES: dict[str, dict[str, Any]] = {
    "learned": {},
    "two-stage": {"box_refinement": True, "two_stage": True, "denoising": 2},
    "mixed": {
        "box_refinement": True, "two_stage": True, "mixed_query_selection": True, "contrastive_denoising": 6,
        "look_forward_twice": True,
    },
}  # fmt: skip
Q, T, REPEATS = 5, 8, 3


def make_head(options: dict[str, Any]) -> DeformableDetr:
    torch.manual_seed(0)
    small = {"num_queries": Q, "width": 32, "num_heads": 2, "encoder_layers": 1, "decoder_layers": 2, "ffn_width": 16}
    head = DeformableDetr(
        (6,), (8,), CLASSES, **small, dropout=0.0, hybrid_queries=T, hybrid_repeats=REPEATS, **options
    )
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return head


def one_to_many(logits: Tensor, boxes: Tensor, targets: list[Targets]) -> Tensor:
    """The loss of one layer: Hungarian matching to the ground truth repeated K times. logits: (B, T, K)."""
    label = l1 = giou = torch.zeros(())
    count = 0
    for image, target in enumerate(targets):
        h, w = target["size"]
        truth = box_convert(target["boxes"] / torch.tensor([w, h, w, h]), "xyxy", "cxcywh").repeat(REPEATS, 1)
        labels = target["labels"].repeat(REPEATS)
        count += len(labels)
        p = logits[image].sigmoid()
        cost = 0.25 * (1 - p) ** 2 * -(p + 1e-8).log() - 0.75 * p**2 * -(1 - p + 1e-8).log()
        overlap = generalized_box_iou(*(box_convert(x, "cxcywh", "xyxy") for x in (boxes[image], truth)))  # (T, N)
        cost = 2 * cost[:, labels] + 5 * torch.cdist(boxes[image], truth, p=1) - 2 * overlap
        queries, objects = linear_sum_assignment(cost.detach().numpy())
        assert len(queries) == min(T, len(labels))
        one_hot = torch.zeros_like(p)
        one_hot[queries, labels[objects]] = 1
        label = label + sigmoid_focal_loss(logits[image], one_hot, reduction="sum")
        l1 = l1 + (boxes[image][queries] - truth[objects]).abs().sum()
        giou = giou + (1 - overlap[queries, objects]).sum()
    return (2 * label + 5 * l1 + 2 * giou) / count


@pytest.mark.parametrize("options", MODES.values(), ids=MODES)
def test_loss_is_that_of_repeated_objects(options: dict[str, Any]):
    """With 3 x 3, 0 and 2 x 3 objects for 8 queries: one object of the first image is found twice only."""
    head = make_head(options).train()
    features, mask, targets = padded_batch()
    outputs = head(features, mask, targets)
    logits, boxes = outputs["hybrid"]
    assert logits.shape == (2, 3, T, 3) and boxes.shape == (2, 3, T, 4)
    expected = torch.stack([one_to_many(logits[layer], boxes[layer], targets) for layer in range(2)]).sum()
    torch.testing.assert_close(head.loss(outputs, targets, LossContext())["hybrid"], expected)


@pytest.mark.parametrize("options", MODES.values(), ids=MODES)
def test_one_to_one_queries_are_independent_of_the_others(options: dict[str, Any]):
    """In training as in evaluation, where the head has `num_queries` queries; with denoising queries too."""
    head = make_head(options)
    features, mask, targets = padded_batch()
    training, evaluation = head.train()(features, mask, targets), head.eval()(features, mask)
    assert "hybrid" in training and "hybrid" not in evaluation
    assert evaluation["logits"].shape == (3, Q, 3)
    for key in ("logits", "boxes"):
        torch.testing.assert_close(training[key], evaluation[key], rtol=1e-4, atol=1e-5)
    assert head.loss(evaluation, targets, LossContext())["hybrid"] == 0
    training["layers"][0].sum().backward()
    parameters = dict(head.named_parameters())
    for name in {"queries.embedding.weight", "queries.contents.weight"} & set(
        parameters
    ):  # learned queries or contents
        gradient = parameters[name].grad
        assert gradient[:Q].any(dim=1).all() and not gradient[Q:].any()


@pytest.mark.parametrize("options", MODES.values(), ids=MODES)
def test_one_to_many_queries_attend_to_themselves_only(options: dict[str, Any]):
    """Predictions of these queries do not depend on denoising queries, nor on the contents of the others."""
    head = make_head(options).train()
    features, mask, targets = padded_batch()
    expected = head(features, mask)["hybrid"]
    found = head(features, mask, targets)["hybrid"]
    for own, other in zip(found, expected, strict=True):
        torch.testing.assert_close(own, other, rtol=1e-4, atol=1e-5)
    if "two_stage" not in options:
        with torch.no_grad():
            head.queries.embedding.weight[:Q] += 1.0
        for own, other in zip(head(features, mask)["hybrid"], expected, strict=True):
            torch.testing.assert_close(own, other, rtol=1e-4, atol=1e-5)


def test_fewer_cells_than_queries():
    """A small map has no proposals for one-to-many queries; their loss is 0, and is still part of the sum."""
    head = make_head(MODES["two-stage"]).train()
    mask = torch.zeros(2, 8, 8, dtype=torch.bool)
    target = {"size": (8, 8), "boxes": torch.tensor([[1.0, 1, 5, 5]]), "labels": torch.tensor([1])}
    targets: list[Targets] = [target, target]
    outputs = head([torch.randn(2, 6, 1, 1)], mask, targets)  # four cells
    assert outputs["hybrid"][0].shape[2] == 0
    assert head.loss(outputs, targets, LossContext())["hybrid"] == 0
