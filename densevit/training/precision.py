"""Which arithmetic the hardware is best at."""

from pathlib import Path

import torch


def resolve(precision: str, accelerator: str = "auto") -> str:
    """Lightning's name for a precision.

    "auto" is bf16-mixed where the hardware multiplies bf16, else 16-mixed on an NVIDIA GPU, else 32.
    precision: "auto", or a name that Lightning knows ("32-true", "16-mixed", "bf16-mixed", ...).
    """
    if precision != "auto":
        return precision
    if accelerator not in ("cpu", "mps") and torch.cuda.is_available():
        return "bf16-mixed" if torch.cuda.is_bf16_supported(including_emulation=False) else "16-mixed"
    if accelerator in ("auto", "cpu") and not torch.backends.mps.is_available():
        return "bf16-mixed" if _cpu_multiplies_bf16() else "32-true"
    return "32-true"


def _cpu_multiplies_bf16() -> bool:
    """Whether the processor has bf16 products of its own; torch emulates them, slowly, where not."""
    try:
        words = Path("/proc/cpuinfo").read_text().split()
    except OSError:
        return False
    return not {"avx512_bf16", "amx_bf16", "bf16"}.isdisjoint(words)
