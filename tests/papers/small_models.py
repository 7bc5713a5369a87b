"""What the tests of papers share: random values for all tensors, and the neighbours of cells."""

from torch import Tensor, nn
from torch.nn import functional as F


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


def neighbours(x: Tensor, size: int) -> Tensor:
    """The cells of (B, C, H, W) around each cell, 0 outside: (B, C, size * size, H * W)."""
    return F.unfold(x, size, padding=size // 2).unflatten(1, (x.shape[1], -1))
