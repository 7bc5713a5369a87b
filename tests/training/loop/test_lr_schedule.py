"""densevit/training/loop/lr_schedule.py: schedules by hand and against torch."""

import math
from typing import Any

import pytest
import torch
from torch import nn

from densevit.config import OptimSection
from densevit.errors import PluginError
from densevit.training.loop.budget import Budget
from densevit.training.loop.lr_schedule import Schedule, schedule
from densevit.training.loop.optim import optimizer_of
from tests.training.loop.test_optim import model_of


def triangle(step: int, steps: int, peak: float = 0.5) -> float:
    progress = step / steps
    return progress / peak if progress < peak else (1 - progress) / (1 - peak)


class Staircase:
    def __init__(self, factors: tuple[float, ...] = (1.0, 0.5)) -> None:
        self.factors = factors

    def __call__(self, step: int, steps: int) -> float:
        return self.factors[min(len(self.factors) - 1, step * len(self.factors) // steps)]


def wrong(step: int, steps: int) -> Any:
    return "half" if step == 1 else 1.0


def factors(steps: int, **options) -> list[float]:
    factor = schedule(OptimSection(lr=1.0, **options), steps)
    return [factor(step) for step in range(steps + 1)]


ROOT = math.sqrt(0.5)

COSINE = [1, (1 + ROOT) / 2, 0.5, (1 - ROOT) / 2, 0]


@pytest.mark.parametrize(
    ("steps", "options", "expected"),
    [
        (6, {"schedule": "constant", "warmup_steps": 3}, [0.25, 0.5, 0.75, 1, 1, 1, 1]),
        (5, {"schedule": "constant", "warmup": 0.4}, [1 / 3, 2 / 3, 1, 1, 1, 1]),
        (3, {"schedule": "constant"}, [1, 1, 1, 1]),
        (6, {"schedule": "cosine", "warmup_steps": 2}, [1 / 3, 2 / 3, *COSINE]),
        (4, {"schedule": "cosine", "min_lr_ratio": 0.2}, [0.2 + 0.8 * x for x in COSINE]),
        (10, {"schedule": "step", "drop_at": 0.7, "warmup_steps": 1}, [0.5] + 6 * [1] + 4 * [0.1]),
        (4, {"schedule": "step", "drop_at": 0.5, "min_lr_ratio": 0.5}, [1, 1, 0.1, 0.1, 0.1]),
        (3, {"schedule": "cosine", "warmup_steps": 9}, [0.1, 0.2, 0.3, 0.4]),  # warm-up longer than training
    ],
)
def test_schedules_by_hand(steps, options, expected):
    assert factors(steps, **options) == pytest.approx(expected)
    factor = schedule(OptimSection(lr=1.0, **options), steps)
    if options["schedule"] != "cosine" or options.get("warmup_steps", 0) < steps:
        assert factor(steps + 15) == factor(steps)  # constant after the end


@pytest.mark.parametrize(("options", "power", "warmup_steps"), [({}, 0.9, 7), ({"power": 2.5}, 2.5, 0)])
def test_poly_matches_torch(warmup_steps, options, power):
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    reference = torch.optim.lr_scheduler.PolynomialLR(optimizer, total_iters=50, power=power)
    expected = []
    for _ in range(51):
        expected.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        reference.step()
    found = factors(50 + warmup_steps, schedule="poly", warmup_steps=warmup_steps, **options)
    assert found[warmup_steps:] == pytest.approx(expected, abs=1e-9)
    floored = factors(50 + warmup_steps, schedule="poly", warmup_steps=warmup_steps, min_lr_ratio=0.2, **options)
    assert floored[warmup_steps:] == pytest.approx([0.2 + 0.8 * x for x in expected], abs=1e-9)


def test_the_scheduler_multiplies_each_group_s_rate_and_raises_weight_decay_by_half_a_cosine():
    """DINO's: 0.04 to 0.4 (Caron et al. 2021, section 3.2); groups without decay stay without."""
    rates = {"lr": 1e-2, "backbone_lr": 1e-3, "schedule": "constant", "warmup_steps": 1}
    section = OptimSection(**rates, weight_decay=0.04, final_weight_decay=0.4)
    optimizer = optimizer_of(model_of(), section, lr=1e-2)
    scheduler = Schedule(optimizer, section, Budget(4, 4, 1))
    for step, share in enumerate((*(1 - x for x in COSINE), 1)):
        half = 0.5 if step == 0 else 1
        assert sorted(group["lr"] for group in optimizer.param_groups) == [1e-3 * half] * 2 + [1e-2 * half] * 2
        decays = {group["weight_decay"] for group in optimizer.param_groups}
        assert sorted(decays) == [0, pytest.approx(0.04 + 0.36 * share)]
        optimizer.step()
        scheduler.step()


def test_a_function_or_a_class_is_the_schedule_after_the_warm_up() -> None:
    named = {"name": f"{__name__}:triangle", "peak": 0.25}
    expected = [0, 1, pytest.approx(2 / 3), pytest.approx(1 / 3), 0]
    assert factors(6, schedule=named, warmup_steps=2) == [pytest.approx(1 / 3), pytest.approx(2 / 3), *expected]
    assert factors(2, schedule=f"{__name__}:triangle") == [0, 1, 0]
    named = {"name": f"{__name__}:Staircase", "factors": [1.0, 0.1, 0.01]}
    assert factors(6, schedule=named) == [1.0, 1.0, 0.1, 0.1, 0.01, 0.01, 0.01]
    with pytest.raises(PluginError, match=r"optim\.schedule: '.*:wrong' returned 'half' for step 1; the learning rate"):
        factors(3, schedule=f"{__name__}:wrong")
