"""Schedules of the learning rate and the weight decay."""

import math
from collections.abc import Callable, Mapping
from numbers import Real
from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from densevit.config import OptimSection, named_classes
from densevit.errors import PluginError
from densevit.training.loop.budget import Budget


def schedule(section: OptimSection, steps: float, warmup_scale: float = 1) -> Callable[[float], float]:
    """The factor on the learning rate as a function of the optimiser step: linear warm-up, then the schedule.

    `cosine` and `poly` reach `min_lr_ratio` at step `steps`, one after the last; `step` divides by 10 at the fraction
    `drop_at` of the steps. A user's function receives the step after the warm-up, from 0, and the number of steps after
    it. The factor raises PluginError if the user's function does not return a number.
    """

    warmup = round(section.warmup * steps) if section.warmup_steps is None else section.warmup_steps * warmup_scale
    custom = named_classes.schedule(section)

    def factor(step: float) -> float:
        if step < warmup:
            return (step + 1) / (warmup + 1)
        if custom is not None:
            return _number(custom(int(step - warmup), max(1, int(steps - warmup))), step, section)
        if section.schedule == "constant":
            return 1.0
        if section.schedule == "step":
            return 1.0 if step < section.drop_at * steps else 0.1
        progress = min(1.0, (step - warmup) / max(1, steps - warmup))
        left = (
            (1 - progress) ** section.power if section.schedule == "poly" else 0.5 * (1 + math.cos(math.pi * progress))
        )
        return section.min_lr_ratio + (1 - section.min_lr_ratio) * left

    return factor


class Schedule(LambdaLR):
    """Sets learning rates and weight decays of an optimiser's groups at each step."""

    def __init__(self, optimizer: Optimizer, section: OptimSection, budget: Budget) -> None:
        decay, factor = (
            weight_decay_schedule(section, budget.length),
            schedule(section, budget.length, budget.warmup_scale),
        )
        self.decay_factor = lambda step: decay(step - budget.shift)
        for group in optimizer.param_groups:
            group["initial_weight_decay"] = group["weight_decay"]
        super().__init__(optimizer, lambda step: factor(step - budget.shift))

    def step(self, epoch: int | None = None) -> None:
        super().step(epoch)
        self._set_weight_decay()

    def restart(self, groups: list[dict[str, Any]], options: Mapping[str, Any]) -> None:
        """Replaces initial rates and decays by those in `groups`, for the current step on. options: other values of the
        optimiser's groups, such as `betas`."""
        self.base_lrs = [group["lr"] for group in groups]
        factor = self.lr_lambdas[0](self.last_epoch)
        for group, initial in zip(self.optimizer.param_groups, groups, strict=True):
            group |= {key: value for key, value in options.items() if key in group}
            group |= {"initial_lr": initial["lr"], "lr": initial["lr"] * factor}
            group["initial_weight_decay"] = initial["weight_decay"]
        self._set_weight_decay()

    def state_dict(self) -> dict[str, Any]:
        return {key: value for key, value in super().state_dict().items() if key != "decay_factor"}

    def _set_weight_decay(self) -> None:
        factor = self.decay_factor(self.last_epoch)
        for group in self.optimizer.param_groups:
            group["weight_decay"] = group["initial_weight_decay"] * factor


def weight_decay_schedule(section: OptimSection, steps: float) -> Callable[[float], float]:
    """The factor on the weight decay as a function of the optimiser step (Caron et al. 2021, section 3.2)."""
    final = 1.0 if section.final_weight_decay is None else section.final_weight_decay / section.weight_decay
    return lambda step: final + (1 - final) * 0.5 * (1 + math.cos(math.pi * min(1.0, step / max(1, steps))))


def _number(value: Any, step: float, section: OptimSection) -> float:
    if not isinstance(value, Real) or not 0 <= float(value) < math.inf:
        name = getattr(section.schedule, "name", "")
        raise PluginError(
            f"optim.schedule: {name!r} returned {value!r} for step {step:g}; the learning rate factor is "
            "expected, a finite number of 0 or more."
        )
    return float(value)
