"""What the tests of papers share: random values for all tensors, and the cost of models."""

import torch
from torch import nn

from densevit_papers.attention_resnet import AttentionResNet
from tests.backbones.references import multiply_adds, parameters


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


def cost(**options) -> tuple[float, float]:
    """Millions of parameters and billions of multiply-adds of an AttentionResNet with a classifier of 1000 classes."""
    with torch.device("meta"):
        resnet = AttentionResNet(**options)
        classifier = nn.Linear(resnet.channels[-1], 1000)
    return parameters(resnet, classifier) / 1e6, (multiply_adds(resnet, 224) + classifier.weight.numel()) / 1e9
