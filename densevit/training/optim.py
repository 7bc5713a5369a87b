"""Optimisers, their parameter groups, and the learning rate over time."""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import nn
from torch.optim import Optimizer

from densevit.config import OptimSection
from densevit.errors import ConfigError, PluginError
from densevit.model import DenseModel
from densevit.model.parameter_patterns import matching

_POWER = 0.9  # of `poly`, as in DeepLab (Chen et al. 2017, section 4.1) and all of segmentation since


def learning_rate(section: OptimSection, images_a_step: int) -> float:
    """`lr`, or `lr_per_256` scaled to the images of one optimiser step (Goyal et al. 2017)."""
    if section.lr is not None:
        return section.lr
    assert section.lr_per_256 is not None  # the section has one of the two
    return section.lr_per_256 * images_a_step / 256


def build_optimizer(model: DenseModel, section: OptimSection, lr: float, fused: bool = True) -> Optimizer:
    """The optimiser with a group for each learning rate, with and without weight decay.

    fused: one kernel for all parameters, which fp16's gradient scaling does not go with.
    """
    groups = parameter_groups(model, section, lr)
    if section.name == "sgd":
        return torch.optim.SGD(groups, lr=lr, momentum=section.betas[0], fused=fused)
    kind = torch.optim.AdamW if section.name == "adamw" else torch.optim.Adam
    return kind(groups, lr=lr, betas=section.betas, fused=fused)


def parameter_groups(model: DenseModel, section: OptimSection, lr: float) -> list[dict]:
    """Trained parameters by learning rate and weight decay. Raises ConfigError where everything is frozen."""
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for rate in parameter_rates(model, section, lr):
        if rate.lr is not None:
            groups.setdefault((rate.lr, rate.weight_decay), []).append(rate.parameter)
    if not groups:
        raise ConfigError(
            "all parameters are frozen, and nothing is left to train. Set backbone.freeze or a head's less."
        )
    return [{"params": group, "lr": rate, "weight_decay": decay} for (rate, decay), group in groups.items()]


class ParameterRate(NamedTuple):
    """How one parameter is trained.

    depth: of the backbone's, from 1 at the input; None in other parts. lr: after the warm-up; None where it is frozen.
    """

    name: str
    parameter: nn.Parameter
    depth: int | None
    lr: float | None
    weight_decay: float


def parameter_rates(model: DenseModel, section: OptimSection, lr: float) -> list[ParameterRate]:
    """How each parameter is trained, in the model's order.

    The backbone's rate is `backbone_lr` where there is one, else `lr`. Of n depths, depth i has it times
    `layer_decay ** (n - i)`, as in BEiT (Bao et al. 2022) and MAE (He et al. 2022, table 9): final norms, which are the
    last depth, have all of it, and the patch embedding the least. `lr_factors` multiply the rates of what they match.

    Decayed is what layers call `weight` and has two dimensions or more; norms, biases, position tables, embeddings,
    tokens and anchors are not.
    """
    embeddings = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    names = [name for name, _ in model.named_parameters()]
    factors = dict.fromkeys(names, 1.0)
    for pattern, factor in section.lr_factors.items():
        for name in matching(pattern, names, "optim.lr_factors"):
            factors[name] *= factor
    groups = model.backbone.parameter_depths()
    depths = {id(parameter): depth for depth, group in enumerate(groups, 1) for parameter in group}
    rates = []
    for name, parameter in model.named_parameters():
        rate, depth = lr, depths.get(id(parameter))
        if name.startswith("backbone."):
            rate = lr if section.backbone_lr is None else section.backbone_lr
            if section.layer_decay < 1:
                rate *= section.layer_decay ** (len(groups) - _known(depth, name))
        decayed = name.endswith("weight") and parameter.ndim >= 2 and id(parameter) not in embeddings
        trained = rate * factors[name] if parameter.requires_grad else None
        rates.append(ParameterRate(name, parameter, depth, trained, section.weight_decay if decayed else 0.0))
    return rates


def _known(depth: int | None, name: str) -> int:
    if depth is None:
        raise PluginError(
            f"optim.layer_decay: {name} is in no group of the backbone's parameter_depths(). Set it to 1, or mend the "
            "backbone: `densevit check backbone` says more."
        )
    return depth


def schedule(section: OptimSection, steps: int) -> Callable[[int], float]:
    """The factor on the learning rate at each optimiser step: a linear warm-up, then the schedule.

    `cosine` and `poly` would reach `min_lr_ratio` at step number `steps`, the first that is not taken; `step` divides
    by 10 at `drop_at` of the steps.
    """

    warmup = round(section.warmup * steps) if section.warmup_steps is None else section.warmup_steps

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / (warmup + 1)
        if section.schedule == "constant":
            return 1.0
        if section.schedule == "step":
            return 1.0 if step < section.drop_at * steps else 0.1
        progress = min(1.0, (step - warmup) / max(1, steps - warmup))
        left = (1 - progress) ** _POWER if section.schedule == "poly" else 0.5 * (1 + math.cos(math.pi * progress))
        return section.min_lr_ratio + (1 - section.min_lr_ratio) * left

    return factor
