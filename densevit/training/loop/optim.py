"""Optimisers, and the learning rate and weight decay of each parameter."""

from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from densevit import config as configs
from densevit import registry
from densevit.config import OptimSection, named_classes
from densevit.config.training_schema import OPTIMISERS
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
    """Builds the optimiser of a model at this learning rate.

    fused: whether torch's fused kernel may be used, see `build_optimizer`.
    """
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
