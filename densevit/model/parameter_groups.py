"""Parameter groups: the learning rate and weight decay of each parameter."""

import warnings
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

from torch import Tensor, nn

from densevit.errors import ConfigError, PluginError
from densevit.model.dense import DenseModel
from densevit.model.parameter_patterns import matching

MIN_SIDE = 16  # rows and columns of the matrices that Muon trains


class ParameterRate(NamedTuple):
    """Learning rate and weight decay of one parameter.

    depth: the depth within the backbone, from 1 at the input; None outside the backbone. lr: the rate after the
    warm-up; None if the parameter is frozen. muon: whether Muon trains it; None for another optimiser.
    """

    name: str
    parameter: nn.Parameter
    depth: int | None
    lr: float | None
    weight_decay: float
    muon: bool | None = None


def parameter_groups(rates: Sequence[ParameterRate]) -> list[dict[str, Any]]:
    """Groups trained parameters by learning rate and weight decay, and by `muon` unless it is None.

    Raises ConfigError if all are frozen.
    """
    groups: dict[tuple[float, float, bool | None], list[nn.Parameter]] = {}
    for rate in rates:
        if rate.lr is not None:
            groups.setdefault((rate.lr, rate.weight_decay, rate.muon), []).append(rate.parameter)
    if not groups:
        raise ConfigError(
            "backbone.freeze, heads: all parameters are frozen; at least one must be trained. Fix: freeze fewer layers."
        )
    return [
        {"params": group, "lr": lr, "weight_decay": decay, **({} if muon is None else {"muon": muon})}
        for (lr, decay, muon), group in groups.items()
    ]


def hidden_matrices(*modules: nn.Module, linear: bool = True) -> list[Tensor]:
    """Returns the weights of convolutions, and with `linear` of linear layers, with at least 16 rows and columns.

    Excluded are grouped convolutions, and layers with fewer outputs, such as classifiers of a few classes.
    """
    kinds = (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)[: 3 if linear else 2]
    layers = [layer for module in modules for layer in module.modules() if isinstance(layer, kinds)]
    weights = [layer.weight for layer in layers if getattr(layer, "groups", 1) == 1]
    return [w for w in weights if min(w.shape[0], w.numel() // w.shape[0]) >= MIN_SIDE]


def method_parameters(model: DenseModel, method: nn.Module) -> list[nn.Parameter]:
    """Returns a method's parameters without those of the model, which may be an attribute of the method."""
    of_model = set(map(id, model.parameters()))
    return [parameter for parameter in method.parameters() if id(parameter) not in of_model]


def parameter_rates(
    model: DenseModel,
    lr: float,
    *,
    backbone_lr: float | None = None,
    layer_decay: float = 1.0,
    lr_factors: Mapping[str, float] | None = None,
    weight_decay: float = 0.0,
    muon: Literal["all", "convolutions"] | None = None,
    method: nn.Module | None = None,
) -> list[ParameterRate]:
    """Returns the learning rate and weight decay of each parameter, in the order of `named_parameters`.

    muon: which of the `hidden_matrices` Muon trains; None: another optimiser. method: the training method, whose
    parameters come last, as `method.*`, with the rate of the heads.

    The backbone uses `backbone_lr` if it is set, else `lr`. Layer-wise decay multiplies the rate of depth i of n by
    `layer_decay ** (n - i)`, as in BEiT (Bao et al. 2022) and MAE (He et al. 2022, table 9): the final norms are the
    last depth and have the full rate, the patch embedding has the lowest. `lr_factors` multiply the rates of the
    parameters that they match.

    Weight decay applies to parameters named `weight` with two or more dimensions; not to norms, biases, position
    tables, embeddings, tokens and anchors.
    """
    embeddings = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    named = dict(model.named_parameters())
    if method is not None:
        own = set(map(id, method_parameters(model, method)))
        named |= {name: p for name, p in method.named_parameters(prefix="method") if id(p) in own}
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
    depths = {id(parameter): depth for depth, group in enumerate(groups, 1) for parameter in group}
    modules = (model,) if method is None else (model, method)
    matrices = set(map(id, hidden_matrices(*modules, linear=muon == "all"))) if muon is not None else set()
    rates = []
    for name, parameter in named.items():
        rate, depth = lr, depths.get(id(parameter))
        if name.startswith("backbone."):
            rate = lr if backbone_lr is None else backbone_lr
            if layer_decay < 1:
                rate *= layer_decay ** (len(groups) - _required_depth(depth, name))
        decayed = name.endswith("weight") and parameter.ndim >= 2 and id(parameter) not in embeddings
        trained = rate * factors[name] if parameter.requires_grad else None
        trains = None if muon is None else id(parameter) in matrices
        rates.append(ParameterRate(name, parameter, depth, trained, weight_decay if decayed else 0.0, trains))
    return rates


def _required_depth(depth: int | None, name: str) -> int:
    if depth is None:
        raise PluginError(
            f"optim.layer_decay: {name} is in no group of the backbone's parameter_depths(). Fix: set "
            "optim.layer_decay=1, or correct the backbone; `densevit check backbone` reports the details."
        )
    return depth
