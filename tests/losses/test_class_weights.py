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


def test_uniform_is_none_and_given_weights_are_returned():
    assert ClassWeights(3, None)(labels(1, 2, 3), LossContext()) is None
    assert ClassWeights(3, (1.0, 0.5, 2.0))(labels(1, 2, 3), LossContext()).tolist() == [1.0, 0.5, 2.0]


def test_balanced_is_the_root_of_median_frequency_over_class_frequency():
    weights = ClassWeights(3, "balanced")(labels(4, 16, 1, ignored=50), LossContext())
    assert weights.tolist() == [1.0, 0.5, 2.0]


def test_pixels_add_up_over_batches():
    balance = ClassWeights(3, "balanced")
    balance(labels(4, 0, 1), LossContext())
    assert balance(labels(0, 16, 0), LossContext()).tolist() == [1.0, 0.5, 2.0]
    assert balance.pixels.tolist() == [4, 16, 1]


def test_an_unseen_class_has_weight_1_and_does_not_count_in_the_median():
    weights = ClassWeights(4, "balanced")(labels(4, 0, 16, 1), LossContext())
    assert weights.tolist() == [1.0, 1.0, 0.5, 2.0]


def test_with_only_ignore_all_weights_are_1():
    assert ClassWeights(2, "balanced")(labels(0, 0, ignored=7), LossContext()).tolist() == [1.0, 1.0]


def test_evaluation_does_not_count():
    balance = ClassWeights(2, "balanced").eval()
    assert balance(labels(1, 4), LossContext()).tolist() == [1.0, 1.0]


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
    ("K", "weights", "message"),
    [
        (0, None, "has no classes"),
        (3, (1.0, 2.0), "class_weights has 2 numbers; expected one for each of the 3 classes"),
        (2, (1.0, -1.0), "finite numbers of at least 0"),
        (2, (0.0, 0.0), "not all 0"),
    ],
)
def test_invalid_weights_raise(K, weights, message):
    with pytest.raises(ValueError, match=message):
        ClassWeights(K, weights)
