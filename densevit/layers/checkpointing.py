"""Activation checkpointing (Chen et al. 2016): activations are recomputed in the backward pass."""

from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint


def run(part: nn.Module, *inputs: Any, checkpointed: bool) -> Any:
    """Returns part(*inputs), with activation checkpointing if `checkpointed` and gradients are enabled."""
    if checkpointed and torch.is_grad_enabled():
        return checkpoint(part, *inputs, use_reentrant=False)
    return part(*inputs)
