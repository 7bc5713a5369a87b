"""Checks of values on a GPU that wait for it only once."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from densevit.layers.tracing import has_values


class RunningChecks:
    """Compares the largest values of tensors that are seen one after another with their limits.

    Values on the CPU are compared at each call. On a GPU, the first call waits for the values. Later calls update a
    running maximum there and start a copy of it, which is compared at the first call after its arrival, so that no call
    waits. On other devices, only the first call compares. Meta, fake and traced tensors have no values.
    """

    def __init__(self) -> None:
        self._largest: dict[str, Tensor] = {}
        self._copies: dict[str, tuple[Tensor, Any]] = {}  # on the host, with the event of the copy

    def __reduce__(self) -> Any:
        return RunningChecks, ()  # a copy of a model starts without values

    def update(self, name: str, values: Tensor, check: Callable[..., None]) -> None:
        """Calls `check` with the largest values, as floats, where they can be read.

        name: the name of the values, each with its own maximum. values: (N,). check: a function that raises an error
        for values that are too large.
        """
        if not has_values(values) or (values.is_cuda and torch.cuda.is_current_stream_capturing()):
            return
        is_first = name not in self._largest
        if values.device.type == "cpu" or is_first:
            check(*values.tolist())
            self._largest[name] = values
        elif values.is_cuda:
            self._largest[name] = torch.maximum(self._largest[name].to(values.device), values)
            self._read(name, check)

    def _read(self, name: str, check: Callable[..., None]) -> None:
        """Compares the values of the copy if it has arrived, and starts a copy if none is under way."""
        if name in self._copies:
            host, event = self._copies[name]
            if not event.query():
                return
            del self._copies[name]
            check(*host.tolist())
        host = torch.empty_like(self._largest[name], device="cpu", pin_memory=True)
        host.copy_(self._largest[name], non_blocking=True)
        event = torch.cuda.Event()
        event.record()
        self._copies[name] = host, event
