"""Exponential moving average of the model's weights."""

from typing import Any

import pytest
import torch
from torch import nn


def started(model: nn.Module, *given: Any, checkpoint: Any = None) -> Any:
    """An average of a model, of a run that resumes from a checkpoint if there is one."""
    from densevit.training.loop.ema import ExponentialMovingAverage, averaged_state

    ema = ExponentialMovingAverage(*given)
    if checkpoint is not None:
        ema.load(dict(checkpoint))
    ema.start(averaged_state(model, nn.Identity()))
    return ema


def saved(ema: Any, model: nn.Module) -> dict[str, Any]:
    checkpoint: Any = {"state_dict": {f"model.{name}": x.detach().clone() for name, x in model.state_dict().items()}}
    ema.save(checkpoint)
    return checkpoint


def test_warm_up_of_the_decay_by_hand() -> None:
    """0.9 * (1 - exp(-n / 2)) is 0.354122, 0.568909 and 0.699183; the average starts with the initial weight, 1."""
    model = nn.Linear(1, 1, bias=False)
    nn.init.ones_(model.weight)
    ema = started(model, 0.9, 2)
    first = 0.354122 * 1 + 0.645878 * 2
    second = 0.568909 * first + 0.431091 * 4
    expected = (first, second, 0.699183 * second + 0.300817 * 8)
    for weight, average in zip((2.0, 4.0, 8.0), expected, strict=True):
        nn.init.constant_(model.weight, weight)
        ema.update()
        assert ema._average["model.weight"].item() == pytest.approx(average, abs=1e-5)
    ema.use()
    assert model.weight.item() == pytest.approx(expected[-1], abs=1e-5)
    checkpoint = saved(ema, model)  # in a validation
    assert checkpoint["state_dict"]["model.weight"].item() == model.weight.item()
    assert checkpoint["current_model_state"]["model.weight"].item() == 8.0
    ema.put_back()
    assert model.weight.item() == 8.0
    resumed = started(model, 0.9, 2, checkpoint=saved(ema, model))
    nn.init.constant_(model.weight, 16.0)
    for one in (ema, resumed):
        one.update()
    assert torch.equal(ema._average["model.weight"], resumed._average["model.weight"])


def test_average_of_a_model_in_bf16_is_exact() -> None:
    """200 updates by a weight of 0.01 to a value at a distance of 1 %: in bf16 none of them would move the average."""
    model = nn.Linear(3, 2).to(torch.bfloat16)
    nn.init.constant_(model.weight, 1.0)
    ema = started(model, 0.99)
    ema.update()
    nn.init.constant_(model.weight, 1.0078125)  # the next number
    for _ in range(200):
        ema.update()
    expected = torch.full((2, 3), 1 + 0.0078125 * (1 - 0.99**200))
    ema.use()
    assert model.weight.dtype == torch.bfloat16 and torch.equal(model.weight.float(), expected.bfloat16().float())
