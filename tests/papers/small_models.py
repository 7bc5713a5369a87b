"""What the tests of papers share: random values for all tensors, and the cost of models."""

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from densevit_papers.attention_resnet import AttentionResNet


def randomise(module: nn.Module) -> nn.Module:
    """The module with random parameters and statistics, none of them 0 or a default."""
    for name, parameter in module.named_parameters():
        if parameter.ndim < 2:
            nn.init.normal_(parameter, 1.0 if name.endswith("weight") else 0.5, 0.3)
        else:
            nn.init.normal_(parameter, 0.0, parameter[0].numel() ** -0.5)
    for name, buffer in module.named_buffers():
        if name.endswith("running_mean"):
            nn.init.normal_(buffer, 0.0, 0.3)
        elif name.endswith("running_var"):
            nn.init.uniform_(buffer, 0.5, 2.0)
    return module


def parameters(*modules: nn.Module) -> int:
    return sum(p.numel() for module in modules for p in module.parameters())


def multiply_adds(model: nn.Module, size: int = 224) -> float:
    """Of a backbone in evaluation mode, on the meta device."""
    with torch.device("meta"), torch.no_grad(), FlopCounterMode(display=False) as counter:
        model.eval()(torch.empty(1, 3, size, size))
    return counter.get_total_flops() / 2


def cost(**options) -> tuple[float, float]:
    """Millions of parameters and billions of multiply-adds of an AttentionResNet with a classifier of 1000 classes."""
    with torch.device("meta"):
        resnet = AttentionResNet(**options)
        classifier = nn.Linear(resnet.channels[-1], 1000)
    return parameters(resnet, classifier) / 1e6, (multiply_adds(resnet) + classifier.weight.numel()) / 1e9
