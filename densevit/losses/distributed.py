"""Reductions over processes, so that losses do not depend on how images are distributed."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, distributed

_alone = False


@contextmanager
def alone() -> Iterator[None]:
    """Within it, reductions are over this process only: for losses in validation, where processes have different
    numbers of images and a collective operation would wait forever."""
    global _alone
    before, _alone = _alone, True
    try:
        yield
    finally:
        _alone = before


def process_count() -> int:
    """World size; 1 if the process group is not initialised, and within `alone`."""
    if _alone:
        return 1
    return distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1


def mean_over_processes(x: Tensor) -> Tensor:
    """Mean of x over processes; x itself with one process.

    DDP averages gradients over processes: a loss divided by the mean count then equals the total sum over the total
    count. A lower bound of the total count must be divided by `process_count()`.
    """
    if process_count() == 1:
        return x
    x = x.clone()
    distributed.all_reduce(x)
    return x / process_count()


def sum_over_processes(x: Tensor) -> Tensor:
    """Sum of x over processes; x itself with one process."""
    if process_count() == 1:
        return x
    x = x.clone()
    distributed.all_reduce(x)
    return x


def to_device(x: Tensor, device: torch.device) -> Tensor:
    """Copies a small CPU tensor to the device without synchronisation, through pinned memory for a GPU."""
    if device.type == "cuda" and x.device.type == "cpu" and torch.cuda.is_available():  # not with fake tensors
        x = x.pin_memory()
    return x.to(device, non_blocking=device.type != "mps")  # on MPS such copies are not ordered
