"""Activation checkpointing (Chen et al. 2016): a part's inner activations are computed again in the backward pass."""

from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint


def run(part: nn.Module, *inputs: Any, checkpointed: bool) -> Any:
    """part(*inputs); where `checkpointed` and gradients are wanted, its activations are not kept but computed twice."""
    if checkpointed and torch.is_grad_enabled():
        return checkpoint(part, *inputs, use_reentrant=False)
    return part(*inputs)
