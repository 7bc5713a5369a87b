"""Optimisers, the learning rate and weight decay of each parameter, and their schedules."""

import math
from collections.abc import Callable, Mapping, Sequence
from numbers import Real
from typing import Any

from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from densevit import config as configs
from densevit import registry
from densevit.config import OptimSection, named_classes
from densevit.config.plugin_checks import check_optimizer
from densevit.errors import ConfigError, PluginError
from densevit.layers.precision import keep_state_types
from densevit.model import DenseModel
from densevit.model.parameter_groups import ParameterRate, parameter_groups, parameter_rates
from densevit.registry.groups import POSITIONAL_ARGUMENTS
from densevit.registry.plugin_options import OPTIONAL_KEYWORDS, parameters_of
from densevit.training.loop.budget import Budget


def learning_rate(section: OptimSection, images_per_step: int) -> float:
    """Returns `lr`, or `lr_per_256` scaled linearly with the batch size (Goyal et al. 2017)."""
    if section.lr is not None:
        return section.lr
    assert section.lr_per_256 is not None  # the section has one of the two
    return section.lr_per_256 * images_per_step / 256


def create_optimizer(model: DenseModel, images_per_step: int = 256, **options: Any) -> Optimizer:
    """Builds the optimiser of a model from the keys of the config section `optim`: lr, backbone_lr, layer_decay, ...

    images_per_step: the batch size over all processes, for `lr_per_256`. The learning rate is constant: the schedule is
    not applied.

    Example:
        >>> optimizer = densevit.create_optimizer(densevit.load("runs/setr_vit"), name="adamw", lr=1e-4)
        >>> optimizer.param_groups[0]["lr"]
        0.0001
    """
    if isinstance(model, str):
        raise ConfigError(f"create_optimizer: the model comes first: create_optimizer(model, name={model!r}, lr=1e-4).")
    section: OptimSection = configs.section("optim", options, "create_optimizer")
    return optimizer_of(model, section, learning_rate(section, images_per_step))


def optim_section(options: OptimSection | Mapping[str, Any] | None) -> OptimSection:
    """The checked config section `optim` of a `DenseModule`."""
    if isinstance(options, OptimSection):
        return options
    section: OptimSection = configs.section("optim", options or {}, "DenseModule")
    check_optimizer(section)
    return section


def optimizer_of(model: DenseModel, section: OptimSection, lr: float, gradient_scaling: bool = False) -> Optimizer:
    """Builds the optimiser of a model at this learning rate, see `build_optimizer`."""
    return build_optimizer(section, parameter_groups(rates_of(model, section, lr)), lr, gradient_scaling)


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
        group_options=getattr(registry.load("optimizers", section.name), "group_options", None),
        method=method,
    )


def current_groups(rates: Sequence[ParameterRate], model: DenseModel, method: nn.Module) -> list[dict[str, Any]]:
    """Returns the parameter groups of rates with the current parameters, by name: sharding replaces the parameters."""
    parameters = {**dict(method.named_parameters("method")), **dict(model.named_parameters())}
    return parameter_groups([rate._replace(parameter=parameters[rate.name]) for rate in rates])


def build_optimizer(
    section: OptimSection, groups: list[dict[str, Any]], lr: float, gradient_scaling: bool = False
) -> Optimizer:
    """Builds the optimiser of these parameter groups: a plugin, whose constructor takes the groups, and as keyword
    arguments `lr`, `weight_decay` and `gradient_scaling` if it has them, and the options of the config.

    lr: the default of groups without a learning rate. gradient_scaling: whether fp16's gradient scaling is used, which
    fused kernels of torch do not support.
    """
    check_optimizer(section)
    if getattr(section.name, "instance", None) is not None:
        raise ConfigError(f"optim.name: {section.name!r} is an instance. Fix: its class, which gets the parameters.")
    offered = {"lr": lr, "weight_decay": section.weight_decay, "gradient_scaling": gradient_scaling}
    optimizer: Optimizer = registry.create(
        "optimizers", section.name, groups, options=section.options, where="optim", offered=offered
    )
    keep_state_types(optimizer)
    return optimizer


def options_in_groups(optimizer: Optimizer) -> dict[str, Any]:
    """Returns the options with which an optimiser was built, as far as its parameter groups have them."""
    options, _ = parameters_of(
        type(optimizer), POSITIONAL_ARGUMENTS["optimizers"], "optim", OPTIONAL_KEYWORDS["optimizers"]
    )
    return {key: optimizer.defaults[key] for key in options if key in optimizer.defaults}


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
