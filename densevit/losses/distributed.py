"""Sums over all processes, so that a loss is the same however its images are shared out."""

import torch
from torch import Tensor, distributed


def process_count() -> int:
    """How many processes train together; 1 where torch's process group is not set up."""
    return distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1


def mean_over_processes(x: Tensor) -> Tensor:
    """The mean of x over the processes that train together; x itself where there is one.

    A loss divided by the mean count is, after the gradients' mean over processes, the whole sum over the whole count.
    A floor under the whole count is that floor divided by `process_count()` under the mean.
    """
    if process_count() == 1:
        return x
    x = x.clone()
    distributed.all_reduce(x)
    return x / process_count()


def sum_over_processes(x: Tensor) -> Tensor:
    """The sum of x over the processes that train together; x itself where there is one."""
    if process_count() == 1:
        return x
    x = x.clone()
    distributed.all_reduce(x)
    return x


def to_device(x: Tensor, device: torch.device) -> Tensor:
    """A small tensor of the CPU on the device, without a wait: to a GPU it is copied from pinned memory."""
    if device.type == "cuda" and x.device.type == "cpu" and torch.cuda.is_available():  # not of fake tensors
        x = x.pin_memory()
    return x.to(device, non_blocking=device.type != "mps")  # where such copies are not ordered
