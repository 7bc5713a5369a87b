"""Exponential moving average of the model's weights."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn


@pytest.mark.parametrize("share", [0.1, 0.001, 0.3, 0.9])
def test_equal_tensors_stay_bit_identical(share: float):
    from densevit.training.callbacks.ema import update_average

    x = torch.randn(10_000) * 10 ** torch.linspace(-30, 30, 10_000)
    average = [x.clone()]
    update_average(average, [x], share)
    assert torch.equal(average[0], x)
    assert not torch.equal((1 - share) * x + share * x, x)  # the sum of two products is not exact


def test_different_tensors_are_averaged():
    from densevit.training.callbacks.ema import update_average

    average = [torch.tensor([1.0, -2.0]), torch.tensor([4.0], dtype=torch.float64)]
    update_average(average, [torch.tensor([2.0, 0.0]), torch.tensor([8.0], dtype=torch.float64)], 0.25)
    torch.testing.assert_close(average[0], torch.tensor([1.25, -1.5]))
    torch.testing.assert_close(average[1], torch.tensor([5.0], dtype=torch.float64))


def test_integers_are_replaced():
    from densevit.training.callbacks.ema import update_average

    average = [torch.tensor(2**60 + 1)]
    update_average(average, [torch.tensor(2**60 + 3)], 0.1)
    assert average[0] == 2**60 + 3


class Task(nn.Module):
    """A module with a model and data that cannot be copied."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model, self.data = model, open(__file__)  # noqa: SIM115  # an open file can neither be copied nor pickled


def at(step: int) -> Any:
    return SimpleNamespace(global_step=step, state=SimpleNamespace(fn="fit"))


def test_average_of_three_steps_by_hand() -> None:
    from densevit.training.callbacks.ema import ExponentialMovingAverage

    task, ema = Task(nn.Linear(3, 2)), ExponentialMovingAverage(0.9)
    ema.on_fit_start(at(0), task)
    expected = None
    for step in (1, 2, 3):
        with torch.no_grad():
            task.model.weight.add_(torch.randn(2, 3))
        ema.on_train_batch_end(at(step), task)
        ema.on_train_batch_end(at(step), task)  # a batch of the same optimiser step
        now = task.model.weight.detach().clone()
        expected = now if expected is None else 0.9 * expected + 0.1 * now
    current = task.model.weight.detach().clone()
    ema.on_validation_epoch_start(at(3), task)
    torch.testing.assert_close(task.model.weight.detach(), expected)
    ema.on_validation_end(at(3), task)
    assert torch.equal(task.model.weight, current)
    task.data.close()


def test_warm_up_of_the_decay_by_hand() -> None:
    """0.9 * (1 - exp(-n / 2)) is 0.354122, 0.568909 and 0.699183; the average starts with the initial weight, 1."""
    from densevit.training.callbacks.ema import ExponentialMovingAverage

    task, ema = Task(nn.Linear(1, 1, bias=False)), ExponentialMovingAverage(0.9, warmup=2)
    nn.init.ones_(task.model.weight)
    ema.on_fit_start(at(0), task)
    first = 0.354122 * 1 + 0.645878 * 2
    second = 0.568909 * first + 0.431091 * 4
    expected = (first, second, 0.699183 * second + 0.300817 * 8)
    for step, (weight, average) in enumerate(zip((2.0, 4.0, 8.0), expected, strict=True), start=1):
        nn.init.constant_(task.model.weight, weight)
        ema.on_train_batch_end(at(step), task)
        assert ema._average["model.weight"].item() == pytest.approx(average, abs=1e-5)
    checkpoint: Any = {"state_dict": {"model.weight": torch.zeros(1, 1)}}
    ema.on_save_checkpoint(at(3), task, checkpoint)
    resumed = ExponentialMovingAverage(0.9, warmup=2)
    resumed.on_load_checkpoint(at(3), task, checkpoint)
    resumed.on_fit_start(at(3), task)
    for one in (ema, resumed):
        nn.init.constant_(task.model.weight, 16.0)
        one.on_train_batch_end(at(4), task)
    assert torch.equal(ema._average["model.weight"], resumed._average["model.weight"])
    task.data.close()


@pytest.mark.parametrize("device", ["meta", "cpu"])
def test_average_excludes_other_modules_and_is_on_the_device(device: str) -> None:
    from densevit.training.callbacks.ema import ExponentialMovingAverage

    task, ema = Task(nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2)).to(device)), ExponentialMovingAverage(0.9)
    ema.on_fit_start(at(0), task)
    assert set(ema._average) == {f"model.{name}" for name in task.model.state_dict()}
    assert {x.device.type for x in ema._average.values()} == {device}
    task.data.close()


def test_average_of_a_model_in_bf16_is_exact() -> None:
    """200 updates by a weight of 0.01 to a value at a distance of 1 %: in bf16 none of them would move the average."""
    from densevit.training.callbacks.ema import ExponentialMovingAverage

    task, ema = Task(nn.Linear(3, 2).to(torch.bfloat16)), ExponentialMovingAverage(0.99)
    torch.nn.init.constant_(task.model.weight, 1.0)
    ema.on_fit_start(at(0), task)
    ema.on_train_batch_end(at(1), task)
    torch.nn.init.constant_(task.model.weight, 1.0078125)  # the next number
    for step in range(2, 202):
        ema.on_train_batch_end(at(step), task)
    expected = torch.full((2, 3), 1 + 0.0078125 * (1 - 0.99**200))
    torch.testing.assert_close(ema._average["model.weight"], expected, rtol=0, atol=1e-5)
    ema.on_validation_epoch_start(at(201), task)
    assert task.model.weight.dtype == torch.bfloat16 and torch.equal(
        task.model.weight.float(), expected.bfloat16().float()
    )
    ema.on_validation_end(at(201), task)
    assert task.model.weight.unique().tolist() == [1.0078125]
    torch.testing.assert_close(ema._average["model.weight"], expected, rtol=0, atol=1e-5)
    checkpoint = {"state_dict": {f"model.{k}": v for k, v in task.model.state_dict().items()}}
    ema.on_save_checkpoint(at(201), task, checkpoint)
    resumed, other = Task(nn.Linear(3, 2).to(torch.bfloat16)), ExponentialMovingAverage(0.99)
    other.on_load_checkpoint(at(201), resumed, checkpoint)
    other.on_fit_start(at(201), resumed)
    assert torch.equal(other._average["model.weight"], ema._average["model.weight"])
