"""Losses of scores: focal beside torchvision's, and gradients; test_set_losses.py compares the others."""

import math

import pytest
import torch

from densevit.losses.classification import focal, matchability_aware, varifocal


@pytest.mark.parametrize(("alpha", "gamma"), [(0.25, 2.0), (0.6, 1.0)])
def test_focal_loss_matches_torchvision(alpha: float, gamma: float):
    from torchvision.ops import sigmoid_focal_loss

    logits = (4 * torch.randn(6, 5)).requires_grad_()
    targets = (torch.rand(6, 5) < 0.3).float()
    own = focal(logits, targets, alpha, gamma)
    theirs = sigmoid_focal_loss(logits, targets, alpha, gamma)
    torch.testing.assert_close(own, theirs)
    weight = torch.rand_like(logits)
    gradients = [torch.autograd.grad((loss * weight).sum(), logits)[0] for loss in (own, theirs)]
    torch.testing.assert_close(*gradients)


def test_the_weight_of_a_negative_has_no_gradient():
    logits = torch.tensor([1.0], requires_grad=True)
    (gradient,) = torch.autograd.grad(matchability_aware(logits, torch.zeros(1)).sum(), logits)
    p = 1 / (1 + math.exp(-1.0))
    assert gradient.item() == pytest.approx(p**1.5 * p, rel=1e-5)  # of -log(1 - p) it is p
    (gradient,) = torch.autograd.grad(varifocal(logits, torch.zeros(1)).sum(), logits)
    assert gradient.item() == pytest.approx(0.75 * p**2 * p, rel=1e-5)


def test_extreme_logits_stay_finite():
    logits = torch.tensor([-200.0, 200.0, -200.0, 200.0], requires_grad=True)
    targets = torch.tensor([0.0, 0.0, 1.0, 1.0])
    for function in (focal, varifocal, matchability_aware):
        loss = function(logits, targets)
        (gradient,) = torch.autograd.grad(loss.sum(), logits)
        assert loss.isfinite().all() and gradient.isfinite().all()
