"""What the hardware computes in half precision, and computation in at least fp32 regardless of autocast and weights."""

import functools
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

HALF = (torch.bfloat16, torch.float16)


def supports_bf16(device_type: str) -> bool:
    """Whether the hardware computes in bf16; elsewhere torch emulates it, many times slower than fp32.

    device_type: "cpu", "cuda", ... A CPU needs bf16 instructions that torch uses: `ATEN_CPU_CAPABILITY=avx2` excludes
    those of AVX-512. False for other devices than CPUs and CUDA GPUs.
    """
    if device_type == "cuda":
        return torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)
    return device_type == "cpu" and _cpu_supports_bf16()


@functools.cache
def _cpu_supports_bf16() -> bool:
    try:
        flags = set(Path("/proc/cpuinfo").read_text().split())
    except OSError:
        return False
    if flags.isdisjoint({"avx512_bf16", "amx_bf16"}):
        return "bf16" in flags  # ARM
    return torch.backends.cpu.get_cpu_capability() == "AVX512"


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
