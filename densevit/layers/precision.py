"""Arithmetic that stays in fp32 at least, whatever the autocast and the weights' dtype."""

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

_HALF = (torch.bfloat16, torch.float16)


def autocast_off(device: torch.device) -> AbstractContextManager[object]:
    """A context in which products stay in fp32: costs, overlaps and softplus overflow or tie in less."""
    if not torch.amp.is_autocast_available(device.type):  # the meta device, on which operations are counted
        return nullcontext()
    return torch.autocast(device.type, enabled=False)


def at_least_fp32(x: Tensor) -> Tensor:
    """x in fp32 where it is bf16 or fp16; float64 stays."""
    return x.float() if x.dtype in _HALF else x
