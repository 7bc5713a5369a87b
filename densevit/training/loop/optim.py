"""Optimisers, and the learning rate and weight decay of each parameter."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn
from torch.optim import Optimizer

from densevit import config as configs
from densevit import registry
from densevit.config import OptimSection
from densevit.config.plugin_checks import check_optimizer
from densevit.errors import ConfigError
from densevit.layers.precision import keep_state_types
from densevit.model import DenseModel, unwrapped
from densevit.model.parameter_groups import ParameterRate, parameter_groups, parameter_rates
from densevit.registry.groups import POSITIONAL_ARGUMENTS
from densevit.registry.plugin_options import OPTIONAL_KEYWORDS, parameters_of


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
    model = unwrapped(model, "create_optimizer", trains=True)
    return optimizer_of(model, section, learning_rate(section, images_per_step))


def optim_section(options: OptimSection | Mapping[str, Any] | None) -> OptimSection:
    """The checked config section `optim` of a `DenseModule`."""
    if isinstance(options, OptimSection):
        return options
    section: OptimSection = configs.section("optim", options or {}, "DenseModule")
    check_optimizer(section)
    return section


def optimizer_of(model: DenseModel, section: OptimSection, lr: float, gradient_scaling: bool = False) -> Optimizer:
    """Builds the optimiser of a model at this learning rate (`build_optimizer`)."""
    return build_optimizer(section, parameter_groups(rates_of(model, section, lr)), lr, gradient_scaling)


def rates_of(
    model: DenseModel, section: OptimSection, lr: float, method: nn.Module | None = None
) -> list[ParameterRate]:
    """Returns the learning rate and weight decay of each parameter for a config section (`parameter_rates`)."""
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
