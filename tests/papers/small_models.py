"""What the tests of papers share: random values for all tensors, and the cost of models."""

from torch import nn


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
