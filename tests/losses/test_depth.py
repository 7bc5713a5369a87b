"""Depth losses against numpy per image; sparse ground truth, and images without any."""

import numpy as np
import pytest
import torch

from densevit.losses import depth, relative_depth


def batch(valid=0.6, B=3, H=19, W=26):
    """Predictions and partly valid ground truth."""
    prediction = 0.5 + 4 * torch.rand(B, H, W)
    truth = (0.4 * prediction + 0.3 + 2 * torch.rand(B, H, W)) * (torch.rand(B, H, W) < valid)
    return prediction.requires_grad_(), truth


def by_image(each, prediction, truth):
    """Mean over images of a numpy function of prediction, ground truth and valid mask, (H, W) each."""
    values = []
    for p, t in zip(prediction.detach().double().numpy(), truth.double().numpy(), strict=True):
        if (t > 0).any():
            values.append(each(p, t, t > 0))
    return np.mean(values)


def numpy_silog(p, t, valid):
    g = np.log(p[valid]) - np.log(t[valid])
    return 10 * np.sqrt((g**2).mean() - 0.85 * g.mean() ** 2)


def numpy_robust(p, t, valid):
    def normalised(x):
        median = np.sort(x[valid])[(valid.sum() - 1) // 2]
        return (x - median) / np.abs(x[valid] - median).mean()

    return normalised(p) - normalised(t)


def numpy_trimmed(p, t, valid):
    errors = sorted(np.abs(numpy_robust(p, t, valid)[valid]))
    return sum(errors[: int(0.8 * len(errors))]) / (2 * len(errors))


def numpy_gradient(p, t, valid):
    error, total = numpy_robust(p, t, valid), 0.0
    for step in (1, 2, 4, 8):
        e, k = error[::step, ::step], valid[::step, ::step]
        for axis in (0, 1):
            both = k & np.roll(k, -1, axis)
            both.swapaxes(0, axis)[-1] = False
            total += np.abs(np.roll(e, -1, axis) - e)[both].sum() / max(k.sum(), 1)
    return total


LOSSES = {  # and their references
    "l1": (depth.l1, lambda p, t, valid: np.abs(p - t)[valid].mean()),
    "silog": (depth.silog, numpy_silog),
    "trimmed": (relative_depth.scale_and_shift_invariant, numpy_trimmed),
    "gradient": (lambda p, t: relative_depth.gradient_matching(*relative_depth.robust_error(p, t)), numpy_gradient),
}


@pytest.mark.parametrize("valid", [1.0, 0.05], ids=["dense", "LiDAR"])
@pytest.mark.parametrize(("loss", "reference"), LOSSES.values(), ids=LOSSES)
def test_each_loss_matches_numpy(loss, reference, valid):
    prediction, truth = batch(valid)
    found = loss(prediction, truth)
    assert found.item() == pytest.approx(by_image(reference, prediction, truth), rel=1e-4)
    found.backward()
    assert prediction.grad.isfinite().all() and prediction.grad.any()
    assert not prediction.grad[truth == 0].any()


@pytest.mark.parametrize("loss", [loss for loss, _ in LOSSES.values()], ids=LOSSES)
def test_an_image_without_ground_truth_is_excluded(loss):
    """Without any, the loss is 0 and differentiable."""
    prediction, truth = batch()
    alone = loss(prediction[:2], truth[:2])
    truth[2] = 0
    truth[2, 0, 0], truth[2, 0, 1], truth[2, 0, 2] = float("nan"), float("inf"), -1.0
    both = loss(prediction, truth)
    assert both.item() == pytest.approx(alone.item(), rel=1e-6)
    (gradient,) = torch.autograd.grad(both, prediction)
    assert gradient.isfinite().all() and not gradient[2].any() and gradient[0].any()
    without = loss(prediction, torch.zeros_like(truth))
    assert without.item() == 0 and not torch.autograd.grad(without, prediction)[0].any()


def test_silog_of_a_wrong_scale_alone_by_hand():
    """g = log 2 everywhere, with Eigen's focus; a perfect prediction has finite gradients."""
    truth = torch.rand(2, 5, 5) + 1
    found = depth.silog(2 * truth, truth, variance_focus=0.5)
    assert found.item() == pytest.approx(10 * 0.5**0.5 * np.log(2), rel=1e-5)
    perfect = truth.clone().requires_grad_()
    depth.silog(perfect, truth).backward()
    assert perfect.grad.isfinite().all()
