"""Weights of classes: given, and balanced by the pixels counted so far."""

import math

import pytest
import torch

from densevit.losses.class_weights import ClassWeights
from densevit.losses.context import LossContext
from densevit.losses.segmentation import IGNORE


def labels(*counts: int, ignored: int = 0) -> torch.Tensor:
    """(1, 1, N) labels with the given number of pixels of each class."""
    values = [c for c, n in enumerate(counts) for _ in range(n)] + [IGNORE] * ignored
    return torch.tensor(values).view(1, 1, -1)


def test_balanced_is_the_root_of_median_frequency_over_class_frequency():
    """Over all batches of the training; an unseen class has weight 1 and does not count in the median."""
    balance = ClassWeights(4, "balanced")
    assert balance(labels(0, 0, 0, 0, ignored=7), LossContext()).tolist() == [1.0] * 4
    balance(labels(4, 0, 0, 1), LossContext())
    assert balance(labels(0, 0, 16, 0, ignored=50), LossContext()).tolist() == [1.0, 1.0, 0.5, 2.0]
    assert balance.pixels.tolist() == [4, 0, 16, 1]
    assert balance.eval()(labels(1, 100, 0, 0), LossContext()).tolist() == [1.0, 1.0, 0.5, 2.0]  # not counted
    assert ClassWeights(3, None)(labels(1, 2, 3), LossContext()) is None
    assert ClassWeights(3, (1.0, 0.5, 2.0))(labels(1, 2, 3), LossContext()).tolist() == [1.0, 0.5, 2.0]


def test_counts_are_in_the_state_dict():
    balance, other = ClassWeights(2, "balanced"), ClassWeights(2, "balanced")
    balance(labels(1, 3), LossContext())
    other.load_state_dict(balance.state_dict())
    assert torch.equal(other.eval()(labels(9, 9), LossContext()), balance.eval()(labels(9, 9), LossContext()))
    _, weight = other(labels(0, 0), LossContext())
    assert math.isclose(float(weight), math.sqrt(1 / 3), rel_tol=1e-6)  # the lower of two medians
    assert not ClassWeights(2, (1.0, 2.0)).state_dict()


def test_counts_stay_integers_in_half_precision():
    balance = ClassWeights(2, "balanced").to(torch.bfloat16)
    for _ in range(300):
        balance(labels(1, 1), LossContext())
    assert balance.pixels.tolist() == [300, 300]


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
