"""Prediction heads at their initial values."""

import pytest
import torch
from torch import nn

from densevit.set_prediction.prediction_layers import box_head, label_head


def test_each_class_has_the_prior_probability():
    assert label_head(4, 3)(torch.zeros(4)).sigmoid().tolist() == pytest.approx([0.01] * 3)


@pytest.mark.parametrize("activation", [nn.ReLU, nn.SiLU])
def test_offsets_are_zero_and_the_size_bias(activation: type[nn.Module]):
    head = box_head(4, size_bias=-2.0, activation=activation)
    assert head(torch.randn(5, 4)).tolist() == [[0.0, 0.0, -2.0, -2.0]] * 5
    assert sum(isinstance(layer, activation) for layer in head) == 2
