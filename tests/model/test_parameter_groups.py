"""Groups of equal rates and decays; the rates of a model are tested in tests/training/loop/test_rates.py."""

import pytest
import torch
from torch import nn

from densevit.errors import ConfigError
from densevit.model.parameter_groups import ParameterRate, parameter_groups


def test_trained_parameters_of_one_rate_decay_and_options_are_a_group():
    a, b, c, d, frozen = (nn.Parameter(torch.zeros(1)) for _ in range(5))
    rates = [
        ParameterRate("a", a, 0.1, 0.5),
        ParameterRate("b", b, 0.1, 0.0),
        ParameterRate("c", c, 0.1, 0.5),
        ParameterRate("d", d, 0.1, 0.5, {"muon": True}),
        ParameterRate("frozen", frozen, None, 0.5),
    ]
    assert parameter_groups(rates) == [
        {"params": [a, c], "lr": 0.1, "weight_decay": 0.5},
        {"params": [b], "lr": 0.1, "weight_decay": 0.0},
        {"params": [d], "lr": 0.1, "weight_decay": 0.5, "muon": True},
    ]
    with pytest.raises(ConfigError, match="all parameters are frozen"):
        parameter_groups(rates[-1:])
