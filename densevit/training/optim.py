"""Optimisers, their parameter groups, and the learning rate over time."""

import math
from collections.abc import Callable

import torch
from torch import nn
from torch.optim import Optimizer

from densevit.config import OptimSection
from densevit.model import DenseModel


def learning_rate(section: OptimSection, images_a_step: int) -> float:
    """`lr`, or `lr_per_256` scaled to the images of one optimiser step (Goyal et al. 2017)."""
    if section.lr_per_256 is not None:
        return section.lr_per_256 * images_a_step / 256
    return section.lr


def build_optimizer(model: DenseModel, section: OptimSection, lr: float, fused: bool = True) -> Optimizer:
    """The optimiser with a group for each learning rate, with and without weight decay.

    fused: one kernel for all parameters, which fp16's gradient scaling does not go with.
    """
    groups = parameter_groups(model, lr, section.backbone_lr, section.weight_decay)
    if section.name == "sgd":
        return torch.optim.SGD(groups, lr=lr, momentum=section.betas[0], fused=fused)
    kind = torch.optim.AdamW if section.name == "adamw" else torch.optim.Adam
    return kind(groups, lr=lr, betas=section.betas, fused=fused)


def parameter_groups(model: DenseModel, lr: float, backbone_lr: float | None, weight_decay: float) -> list[dict]:
    """Trained parameters by learning rate and decay.

    Decayed is what layers call `weight` and has two dimensions or more; norms, biases, position tables, tokens and
    anchors are not.
    """
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        rate = backbone_lr if backbone_lr is not None and name.startswith("backbone.") else lr
        decay = weight_decay if name.endswith("weight") and parameter.ndim >= 2 else 0.0
        groups.setdefault((rate, decay), []).append(parameter)
    return [{"params": group, "lr": rate, "weight_decay": decay} for (rate, decay), group in groups.items()]


def schedule(section: OptimSection, steps: int) -> Callable[[int], float]:
    """The factor on the learning rate at each optimiser step: a linear warm-up, then the schedule down to the last step."""

    def factor(step: int) -> float:
        if step < section.warmup_steps:
            return (step + 1) / (section.warmup_steps + 1)
        if section.schedule == "constant":
            return 1.0
        progress = (step - section.warmup_steps) / max(1, steps - section.warmup_steps)
        if section.schedule == "step":
            return 1.0 if step < section.drop_at * steps else 0.1
        return 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))

    return factor
