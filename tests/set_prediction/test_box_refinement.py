"""Boxes as logits plus offsets, and the gradient of look forward twice."""

import math

import pytest
import torch
from torch import nn

from densevit.layers.mlp import Mlp
from densevit.set_prediction.box_refinement import look_forward_twice, refine

OFFSETS = [1.0, 0.0, -1.0, 2.0]


@pytest.fixture
def head() -> Mlp:
    """Predicts the same offsets for all features."""
    mlp = Mlp(3, 3, 4, 1)
    nn.init.zeros_(mlp.last.weight)
    mlp.last.bias.data = torch.tensor(OFFSETS)
    return mlp


@pytest.mark.parametrize("reference", [[0.2, 0.5, 0.7, 0.1], [0.2, 0.6], [0.0, 1.0, 0.5, 0.5]], ids=str)
def test_offsets_are_added_to_logits_and_points_have_half_the_image_as_size(head: Mlp, reference: list[float]):
    """An offset multiplies the odds p / (1 - p) by its exponential; 0 and 1 count as 1e-4 and 1 - 1e-4."""
    box = [min(max(x, 1e-4), 1 - 1e-4) for x in (*reference, 0.5, 0.5)][:4]
    odds = [p / (1 - p) * math.exp(offset) for p, offset in zip(box, OFFSETS, strict=True)]
    boxes = refine(head, torch.randn(2, 3), torch.tensor([reference, reference]))
    torch.testing.assert_close(boxes, torch.tensor([[x / (1 + x) for x in odds]] * 2))


def test_look_forward_twice_reaches_the_layer_before_by_the_loss_only(head: Mlp):
    before = torch.tensor([[0.2, 0.5, 0.7, 0.1]], requires_grad=True)
    predicted, following = look_forward_twice(head, torch.randn(1, 3), before.detach(), before)
    assert torch.equal(predicted, following)
    assert torch.autograd.grad(predicted.sum(), before, retain_graph=True)[0].all()
    assert torch.autograd.grad(following.sum(), before, allow_unused=True)[0] is None
