"""What the tests of attention layers in CNNs share: random values for all tensors, and the cost of a classifier."""

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from densevit_papers.attention_resnet import AttentionResNet


def randomise(module: nn.Module) -> None:
    """Random parameters and statistics, none of them 0 or a default."""
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


def cost(**options) -> tuple[float, float]:
    """Millions of parameters and billions of multiply-adds at 224 x 224, with a classifier of 1000 classes."""
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        resnet = AttentionResNet(**options).eval()
        classifier = nn.Linear(resnet.channels[-1], 1000)
        classifier(resnet(torch.empty(1, 3, 224, 224))[-1].mean((2, 3)))
    count = sum(p.numel() for module in (resnet, classifier) for p in module.parameters())
    return count / 1e6, counter.get_total_flops() / 2e9
