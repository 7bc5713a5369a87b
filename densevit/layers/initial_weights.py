"""Initial weights of the linear layers of transformers, as in DeiT's code."""

from torch import nn


def truncated_normal(module: nn.Module) -> None:
    """Initialises a linear layer: weights of deviation 0.02, cut at 2, and biases of 0. Other layers stay."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
