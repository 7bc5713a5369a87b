"""Segmentation losses and weights of classes against torch and brute force; see also test_distributed.py."""

import pytest
import torch
from torch.nn import functional as F

from densevit.interfaces import IGNORE
from densevit.losses.class_weights import ClassWeights
from densevit.losses.context import LossContext
from densevit.losses.segmentation import cross_entropy, dice, hard_pixels, label_counts, label_maps

K = 5
WEIGHTS = torch.tensor([1.0, 0.2, 3.0, 0.0, 0.7])


def make(B=3, H=6, W=7):
    torch.manual_seed(0)
    logits = (2 * torch.randn(B, K, H, W)).requires_grad_()
    labels = torch.randint(K, (B, H, W))
    labels[torch.rand(B, H, W) < 0.3] = IGNORE
    return logits, labels


@pytest.mark.parametrize(("weights", "smoothing"), [(None, 0.0), (WEIGHTS, 0.1)], ids=["even", "weighted"])
def test_cross_entropy_matches_torch(weights, smoothing):
    logits, labels = make()
    found = cross_entropy(logits, labels, LossContext(), weights, smoothing)
    expected = F.cross_entropy(logits, labels, weights, ignore_index=IGNORE, label_smoothing=smoothing)
    torch.testing.assert_close(found, expected)
    found_gradient, expected_gradient = (torch.autograd.grad(x, logits)[0] for x in (found, expected))
    torch.testing.assert_close(found_gradient, expected_gradient)


def brute_force_dice(logits, labels):
    terms = []
    for x, y in zip(logits.softmax(1), labels, strict=True):
        known = y != IGNORE
        for k in range(K):
            if (y == k).any():
                p, t = x[k][known], (y[known] == k).float()
                terms.append(1 - (2 * (p * t).sum() + 1) / (p.sum() + t.sum() + 1))
    return torch.stack(terms).mean()


def test_dice_matches_brute_force():
    logits, labels = make()
    labels[0][labels[0] == 2] = 1  # a class that one image lacks
    found, expected = dice(logits, labels, LossContext()), brute_force_dice(logits, labels)
    torch.testing.assert_close(found, expected)
    found_gradient, expected_gradient = (torch.autograd.grad(x, logits)[0] for x in (found, expected))
    torch.testing.assert_close(found_gradient, expected_gradient)


def mmsegmentation_ohem(logits, labels, threshold, min_kept):
    """mmsegmentation's OHEMPixelSampler for one image."""
    known = labels != IGNORE
    probability = logits.softmax(0).gather(0, labels.where(known, 0)[None])[0]
    ordered = probability[known].sort().values
    least = ordered[min(min_kept, len(ordered) - 1)]
    return known & (probability < max(float(least), threshold))


@pytest.mark.parametrize(("threshold", "min_kept"), [(0.0, 5), (0.2, 20), (0.7, 1)])
def test_hard_pixels_match_mmsegmentation_per_image(threshold, min_kept):
    logits, labels = make()
    found = hard_pixels(logits, labels, threshold, min_kept)
    for x, y, hard in zip(logits.detach(), labels, found, strict=True):
        expected = mmsegmentation_ohem(x, y, threshold, min_kept)
        assert min_kept <= int(expected.sum()) < int((y != IGNORE).sum())
        assert hard.tolist() == y.where(expected, IGNORE).tolist()


@pytest.mark.parametrize(
    "loss",
    [
        lambda x, y: cross_entropy(x, y, LossContext()),
        lambda x, y: cross_entropy(x, y, LossContext(), WEIGHTS, 0.1),
        lambda x, y: cross_entropy(x, hard_pixels(x, y, 0.7, 10), LossContext()),
        lambda x, y: dice(x, y, LossContext()),
    ],
    ids=["cross-entropy", "weighted", "hard pixels", "dice"],
)
def test_only_ignore_gives_a_differentiable_0(loss):
    logits, labels = make()
    nothing = torch.full_like(labels, IGNORE)
    value = loss(logits, nothing)
    (gradient,) = torch.autograd.grad(value, logits)
    assert float(value.detach()) == 0 and not gradient.any()

    assert float(cross_entropy(logits, torch.full_like(labels, 3), LossContext(), WEIGHTS).detach()) == 0  # no weight
    beside = torch.cat([labels, nothing[:1]])  # an image of ignore beside others changes nothing
    torch.testing.assert_close(loss(torch.cat([logits, logits[:1]]), beside), loss(logits, labels))


def pixels_of(*counts: int, ignored: int = 0) -> torch.Tensor:
    """(1, 1, N) labels with the given number of pixels of each class."""
    values = [c for c, n in enumerate(counts) for _ in range(n)] + [IGNORE] * ignored
    return torch.tensor(values).view(1, 1, -1)


def test_balanced_is_the_root_of_median_frequency_over_class_frequency():
    """Over all batches of the training; an unseen class has weight 1 and does not count in the median."""
    balance = ClassWeights(4, "balanced")
    assert balance(pixels_of(0, 0, 0, 0, ignored=7), LossContext()).tolist() == [1.0] * 4
    balance(pixels_of(4, 0, 0, 1), LossContext())
    assert balance(pixels_of(0, 0, 16, 0, ignored=50), LossContext()).tolist() == [1.0, 1.0, 0.5, 2.0]
    assert balance.pixels.tolist() == [4, 0, 16, 1]
    assert balance.eval()(pixels_of(1, 100, 0, 0), LossContext()).tolist() == [1.0, 1.0, 0.5, 2.0]  # not counted
    assert ClassWeights(3, None)(pixels_of(1, 2, 3), LossContext()) is None
    assert ClassWeights(3, (1.0, 0.5, 2.0))(pixels_of(1, 2, 3), LossContext()).tolist() == [1.0, 0.5, 2.0]


@pytest.mark.parametrize(
    ("K", "weights", "facts"),
    [
        (0, None, "no classes"),
        (3, (1.0, 2.0), "2 numbers.* 3 classes"),
        (2, (1.0, -1.0), "at least 0"),
        (2, (0.0, 0.0), "all 0"),
    ],
)
def test_invalid_weights_raise(K, weights, facts):
    with pytest.raises(ValueError, match=facts):
        ClassWeights(K, weights)


def test_maps_and_counts_of_images_of_different_sizes_and_without_labels():
    targets = [{"semantic": torch.tensor([[0, 2, IGNORE]]).byte(), "size": (1, 3)}, {"size": (2, 2)}]
    maps = label_maps(targets, torch.device("cpu"))
    assert maps.tolist() == [[[0, 2, IGNORE], [IGNORE] * 3], [[IGNORE] * 3] * 2] and maps.dtype == torch.int64
    assert label_counts(targets, torch.tensor([0.5, 9.0, 2.0])) == {"pixels": 2.5, "segments": 2}
