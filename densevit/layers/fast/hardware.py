"""Hardware capabilities, which select faster implementations and lower precisions."""

import functools
from pathlib import Path

import torch


def supports_bf16(device_type: str) -> bool:
    """Whether the hardware computes in bf16; otherwise torch emulates it, many times slower than fp32.

    device_type: "cpu", "cuda", ... A CPU needs bf16 instructions that torch uses: `ATEN_CPU_CAPABILITY=avx2` excludes
    AVX-512 instructions. False for other devices than CPUs and CUDA GPUs.
    """
    if device_type == "cuda":
        return torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)
    if device_type != "cpu":
        return False
    flags = _cpu_words()
    if flags.isdisjoint({"avx512_bf16", "amx_bf16"}):
        return "bf16" in flags  # ARM
    return torch.backends.cpu.get_cpu_capability() == "AVX512"


@functools.cache
def _cpu_words() -> frozenset[str]:
    """The words of /proc/cpuinfo, such as vendor and instruction sets. Empty on systems other than Linux."""
    try:
        return frozenset(Path("/proc/cpuinfo").read_text().split())
    except OSError:
        return frozenset()
