"""Collections over all processes of torch.distributed. Sums and means: `LossContext`."""

from typing import TypeVar

import torch
from torch import Tensor, distributed, nn

T = TypeVar("T")


def process_count() -> int:
    """World size; 1 if the process group is not initialised."""
    return distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1


def process_rank() -> int:
    """The rank of this process; 0 if the process group is not initialised."""
    return distributed.get_rank() if process_count() > 1 else 0


def gather_objects(value: T) -> list[T]:
    """Gathers the values of all processes by pickling, in the order of ranks."""
    if process_count() == 1:
        return [value]
    values: list[T | None] = [None] * process_count()
    distributed.all_gather_object(values, value)
    return values  # type: ignore[return-value]  # each is set


def broadcast_buffers(module: nn.Module) -> None:
    """Gives the buffers of all processes the values of the first, such as the statistics of batch norms."""
    for buffer in module.buffers() if process_count() > 1 else ():
        if buffer.is_contiguous():  # expanded buffers are constants
            distributed.broadcast(buffer.data, 0)


def to_device(x: Tensor, device: torch.device) -> Tensor:
    """Copies a small CPU tensor to the device without synchronisation, through pinned memory for a GPU."""
    if device.type == "cuda" and x.device.type == "cpu" and torch.cuda.is_available():  # not with fake tensors
        x = x.pin_memory()
    return x.to(device, non_blocking=device.type != "mps")  # on MPS such copies are not ordered


def with_cpu_copy(x: Tensor, copy: Tensor) -> Tensor:
    """A batch's tensor on a device, from which `cpu_copy_of` returns the CPU tensor that it was copied from."""
    if x is not copy and not x.is_inference():
        x.cpu_copy = copy, x._version  # type: ignore[attr-defined]
    return x


def cpu_copy_of(x: Tensor) -> Tensor:
    """The CPU tensor with the values of a batch's tensor, which are read without synchronisation; the tensor itself if
    it has none, or was changed in place."""
    copy, version = getattr(x, "cpu_copy", (x, None))
    return copy if version is None or x._version == version else x
