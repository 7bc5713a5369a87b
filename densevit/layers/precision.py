"""Computation in at least fp32, regardless of autocast and the dtype of the weights."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

HALF = (torch.bfloat16, torch.float16)


def autocast_off(device: torch.device) -> AbstractContextManager[object]:
    """Disables autocast: matching costs, IoUs and softplus overflow or tie in half precision."""
    if not torch.amp.is_autocast_available(device.type):  # e.g. the meta device, used to count operations
        return nullcontext()
    return torch.autocast(device.type, enabled=False)


def at_least_fp32(x: Tensor) -> Tensor:
    """Casts bf16 and fp16 to fp32; fp32 and fp64 are unchanged."""
    return x.float() if x.dtype in HALF else x


def in_float32(values: Any) -> Any:
    """A nested dict, list or tuple with its bf16 and fp16 tensors cast to fp32."""
    if isinstance(values, Tensor):
        return at_least_fp32(values)
    if isinstance(values, dict):
        return {key: in_float32(value) for key, value in values.items()}
    if type(values) in (list, tuple):
        return type(values)(map(in_float32, values))
    return values
