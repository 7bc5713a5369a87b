"""Parameter groups: the learning rate and weight decay of each parameter."""

import warnings
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

from torch import nn

from densevit.errors import ConfigError, PluginError
from densevit.grouping import grouped
from densevit.model.dense import DenseModel
from densevit.model.parameter_patterns import matching


class ParameterRate(NamedTuple):
    """Learning rate and weight decay of one parameter.

    lr: the rate after warm-up; None for a frozen parameter. options: further keys of its group, from the optimiser's
    `group_options`.
    """

    name: str
    parameter: nn.Parameter
    lr: float | None
    weight_decay: float
    options: Mapping[str, Any] = MappingProxyType({})


def parameter_groups(rates: Sequence[ParameterRate]) -> list[dict[str, Any]]:
    """Groups trained parameters by learning rate, weight decay and options. Raises ConfigError if all are frozen."""
    groups = grouped(
        (tuple({"lr": rate.lr, "weight_decay": rate.weight_decay, **rate.options}.items()), rate.parameter)
        for rate in rates
        if rate.lr is not None
    )
    if not groups:
        raise ConfigError(
            "backbone.freeze, heads: all parameters are frozen; at least one must be trained. Fix: freeze fewer layers."
        )
    return [{"params": group, **dict(options)} for options, group in groups.items()]


def method_parameters(model: DenseModel, method: nn.Module) -> list[nn.Parameter]:
    """A method's parameters without the parameters of the model, which may be an attribute of the method."""
    model_parameters = set(map(id, model.parameters()))
    return [parameter for parameter in method.parameters() if id(parameter) not in model_parameters]


def parameter_rates(
    model: DenseModel,
    lr: float,
    *,
    backbone_lr: float | None = None,
    layer_decay: float = 1.0,
    lr_factors: Mapping[str, float] | None = None,
    weight_decay: float = 0.0,
    group_options: Callable[[nn.Module, nn.Parameter], Mapping[str, Any]] | None = None,
    method: nn.Module | None = None,
) -> list[ParameterRate]:
    """The learning rate and weight decay of each parameter, in the order of `named_parameters`.

    group_options: the optimiser's function of a layer and its parameter that returns further keys of the parameter's
    group; None without one. method: the training method; its parameters come last, as `method.*`, with the heads' rate.

    The backbone uses `backbone_lr` if set, else `lr`. Layer-wise decay multiplies the rate of depth i of n by
    `layer_decay ** (n - i)`, as in BEiT (Bao et al. 2022) and MAE (He et al. 2022, table 9): the final norms, the last
    depth, have the full rate, the patch embedding the lowest. First layers adapted to other channels have the heads'
    rate. `lr_factors` multiply the rates of matching parameters.

    Weight decay applies to parameters named `weight` with two or more dimensions; not to norms, biases, position
    tables, embeddings, tokens and anchors.
    """
    embeddings = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    named = dict(model.named_parameters())
    if method is not None:
        method_ids = set(map(id, method_parameters(model, method)))
        named |= {name: p for name, p in method.named_parameters(prefix="method") if id(p) in method_ids}
    names = list(named)
    factors = dict.fromkeys(names, 1.0)
    for pattern, factor in (lr_factors or {}).items():
        for name in matching(pattern, names, "optim.lr_factors"):
            factors[name] *= factor
    groups = model.backbone.parameter_depths()
    if layer_decay < 1 and len(groups) == 1:
        warnings.warn(
            f"optim.layer_decay={layer_decay:g} has no effect: all parameters of "
            f"{type(model.backbone).__name__} have one depth. Fix: override its parameter_depths(), "
            "or remove optim.layer_decay.",
            stacklevel=2,
        )
    stem = model.sections.backbone.adapted_stem
    depths = {id(parameter): depth for depth, group in enumerate(groups, 1) for parameter in group}
    layers: dict[int, nn.Module] = {}
    for layer in (layer for module in filter(None, (model, method)) for layer in module.modules()):
        for parameter in layer.parameters(recurse=False):
            layers.setdefault(id(parameter), layer)
    rates = []
    for name, parameter in named.items():
        rate = lr
        if name.startswith("backbone.") and name.removeprefix("backbone.") not in stem:
            rate = lr if backbone_lr is None else backbone_lr
            if layer_decay < 1:
                rate *= layer_decay ** (len(groups) - _required_depth(depths.get(id(parameter)), name))
        decayed = name.endswith("weight") and parameter.ndim >= 2 and id(parameter) not in embeddings
        trained = rate * factors[name] if parameter.requires_grad else None
        options = {} if group_options is None else group_options(layers[id(parameter)], parameter)
        rates.append(ParameterRate(name, parameter, trained, weight_decay if decayed else 0.0, options))
    return rates


def _required_depth(depth: int | None, name: str) -> int:
    if depth is None:
        raise PluginError(
            f"optim.layer_decay: {name} is in no group of the backbone's parameter_depths(). Fix: set "
            "optim.layer_decay=1, or correct the backbone; `densevit check backbone` reports the details."
        )
    return depth
