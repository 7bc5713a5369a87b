"""Sums over all processes, so that a loss is the same however its images are shared out."""

import torch
from torch import Tensor, distributed


def mean_over_processes(x: Tensor) -> Tensor:
    """The mean of x over the processes that train together; x itself where there is one.

    A loss divided by the mean count is, after the gradients' mean over processes, the whole sum over the whole count.
    """
    if not (distributed.is_available() and distributed.is_initialized()):
        return x
    x = x.clone()
    distributed.all_reduce(x)
    return x / distributed.get_world_size()


def autocast_off(device: torch.device) -> torch.autocast:
    """A context in which products stay in fp32: costs, overlaps and softplus overflow or tie in less."""
    return torch.autocast(device.type, enabled=False)
