"""Optimisers and learning rate schedules."""

import math
from collections.abc import Callable
from numbers import Real
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from densevit import config as configs
from densevit import registry
from densevit.config import OptimSection, named_classes
from densevit.config.training_schema import OPTIMISERS
from densevit.errors import PluginError
from densevit.inference.predictor import Predictor, dense_model
from densevit.model import DenseModel
from densevit.model.parameter_groups import ParameterRate, parameter_groups, parameter_rates
from densevit.training.loop.muon import Muon


def learning_rate(section: OptimSection, images_per_step: int) -> float:
    """Returns `lr`, or `lr_per_256` scaled linearly with the batch size (Goyal et al. 2017)."""
    if section.lr is not None:
        return section.lr
    assert section.lr_per_256 is not None  # the section has one of the two
    return section.lr_per_256 * images_per_step / 256


def create_optimizer(model: DenseModel | Predictor, images_per_step: int = 256, **options: Any) -> Optimizer:
    """Builds the optimiser of a model from the keys of the config section `optim`: lr, backbone_lr, layer_decay, ...

    images_per_step: the batch size over all processes, for `lr_per_256`. The learning rate is constant: the schedule is
    not applied.
    """
    section: OptimSection = configs.section("optim", options, "create_optimizer")
    return optimizer_of(dense_model(model), section, learning_rate(section, images_per_step))


def optimizer_of(model: DenseModel, section: OptimSection, lr: float, fused: bool = True) -> Optimizer:
    """Builds the optimiser of a model at this learning rate. fused: see `build_optimizer`."""
    return build_optimizer(section, parameter_groups(rates_of(model, section, lr)), lr, fused)


def rates_of(
    model: DenseModel, section: OptimSection, lr: float, method: nn.Module | None = None
) -> list[ParameterRate]:
    """Returns the learning rate and weight decay of each parameter for a config section, see `parameter_rates`."""
    return parameter_rates(
        model,
        lr,
        backbone_lr=section.backbone_lr,
        layer_decay=section.layer_decay,
        lr_factors=section.lr_factors,
        weight_decay=section.weight_decay,
        muon=section.matrices if section.name == "muon" else None,
        method=method,
    )


def build_optimizer(section: OptimSection, groups: list[dict[str, Any]], lr: float, fused: bool = True) -> Optimizer:
    """Builds the optimiser of these parameter groups.

    lr: the default of groups without a learning rate. fused: updates all parameters with one kernel; not compatible
    with fp16's gradient scaling.
    """
    if section.name not in OPTIMISERS:
        kind, options = named_classes.optimiser(section, lr)
        return registry.construct(kind, section.name, groups, options=options, where="optim")
    assert section.betas is not None  # the schema sets them
    if section.name == "sgd":
        return torch.optim.SGD(groups, lr=lr, momentum=section.betas[0], fused=fused)
    if section.name == "muon":
        return Muon(groups, lr=lr, betas=section.betas, fused=fused)
    kind = torch.optim.AdamW if section.name == "adamw" else torch.optim.Adam
    return kind(groups, lr=lr, betas=section.betas, fused=fused)


def group_options(section: OptimSection) -> dict[str, Any]:
    """Returns the config options of a parameter group other than its learning rate and weight decay."""
    if section.name not in OPTIMISERS:
        options = section.options
        return options if section.betas is None else {**options, "betas": section.betas}
    assert section.betas is not None  # the schema sets them
    return {"momentum": section.betas[0]} if section.name == "sgd" else {"betas": section.betas}


def schedule(section: OptimSection, steps: int) -> Callable[[int], float]:
    """Returns the factor on the learning rate as a function of the optimiser step: linear warm-up, then the schedule.

    `cosine` and `poly` reach `min_lr_ratio` at step `steps`, one after the last; `step` divides by 10 at the fraction
    `drop_at` of the steps. A user's function is called with the step after the warm-up, from 0, and the number of
    steps after it. The factor raises PluginError if the function does not return a number.
    """

    warmup = round(section.warmup * steps) if section.warmup_steps is None else section.warmup_steps
    custom = named_classes.schedule(section)

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / (warmup + 1)
        if custom is not None:
            return _number(custom(step - warmup, max(1, steps - warmup)), step, section)
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
    """Sets the learning rates and weight decays of an optimiser's groups in each step."""

    def __init__(self, optimizer: Optimizer, section: OptimSection, steps: int) -> None:
        self.decay_factor = weight_decay_schedule(section, steps)
        for group in optimizer.param_groups:
            group["initial_weight_decay"] = group["weight_decay"]
        super().__init__(optimizer, schedule(section, steps))

    def step(self, epoch: int | None = None) -> None:
        super().step(epoch)
        self._set_weight_decay()

    def restart(self, groups: list[dict[str, Any]]) -> None:
        """Replaces the initial rates and decays by those of other groups, and sets those of the current step."""
        self.base_lrs = [group["lr"] for group in groups]
        factor = self.lr_lambdas[0](self.last_epoch)
        for group, initial in zip(self.optimizer.param_groups, groups, strict=True):
            group |= {"initial_lr": initial["lr"], "lr": initial["lr"] * factor}
            group["initial_weight_decay"] = initial["weight_decay"]
        self._set_weight_decay()

    def state_dict(self) -> dict[str, Any]:
        return {key: value for key, value in super().state_dict().items() if key != "decay_factor"}

    def _set_weight_decay(self) -> None:
        factor = self.decay_factor(self.last_epoch)
        for group in self.optimizer.param_groups:
            group["weight_decay"] = group["initial_weight_decay"] * factor


def weight_decay_schedule(section: OptimSection, steps: int) -> Callable[[int], float]:
    """Returns the factor on the weight decay as a function of the optimiser step (Caron et al. 2021, section 3.2)."""
    final = 1.0 if section.final_weight_decay is None else section.final_weight_decay / section.weight_decay
    return lambda step: final + (1 - final) * 0.5 * (1 + math.cos(math.pi * min(1.0, step / max(1, steps))))


def _number(value: Any, step: int, section: OptimSection) -> float:
    if not isinstance(value, Real) or not 0 <= float(value) < math.inf:
        name = getattr(section.schedule, "name", "")
        raise PluginError(
            f"optim.schedule: {name!r} returned {value!r} for step {step}; the factor on the learning rate is "
            "expected, a finite number of 0 or more."
        )
    return float(value)
