"""Losses of groups: the means of those of each group alone, which `SetCriterion` gives."""

import pytest
import torch

from densevit.losses.context import LossContext
from densevit.losses.matching import MatchingCosts
from densevit.losses.set_losses import LossWeights
from densevit.set_prediction.criterion import SetCriterion
from densevit.set_prediction.group_criterion import GroupCriterion, over_groups
from tests.set_prediction.test_criterion import TARGETS


def test_means_are_over_the_groups_of_a_layer():
    assert over_groups({"l1": torch.tensor([1.0, 3.0, 10.0, 20.0])}, 2)["l1"].tolist() == [2.0, 15.0]


def test_losses_are_means_over_groups_of_proposals_and_layers():
    torch.manual_seed(0)
    logits, boxes = torch.randn(3, 3, 2, 4, 3), 0.2 + 0.6 * torch.rand(3, 3, 2, 4, 4)  # (1 + L, B, G, Q, ...)
    options = (MatchingCosts(label=2.0), LossWeights(), "iou_aware")
    criterion = GroupCriterion(*options)
    assert criterion.loss_counts([2, 1]) == {"objects": 3}
    found = criterion.losses({"logits": logits[-1, :, 0], "layers": (logits, boxes)}, TARGETS, LossContext())
    alone = []
    for group in range(2):
        for layer in range(3):
            layers = (logits[layer : layer + 1, :, group], boxes[layer : layer + 1, :, group])
            losses = SetCriterion(*options).losses({"logits": layers[0][0], "layers": layers}, TARGETS, LossContext())
            alone.append([float(losses[name]) for name in ("label", "l1", "giou")])
    means = torch.tensor(alone).view(2, 3, 3).mean(0)  # by layer and term
    assert [float(found[name]) for name in ("label", "l1", "giou")] == pytest.approx(means[2].tolist(), rel=1e-5)
    assert float(found["proposals"]) == pytest.approx(float(means[0].sum()), rel=1e-5)
    assert float(found["auxiliary"]) == pytest.approx(float(means[1].sum()), rel=1e-5)
