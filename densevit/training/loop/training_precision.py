"""Training precision: the default for the hardware, and Lightning's precision plugins."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from pytorch_lightning.plugins.precision import DoublePrecision, HalfPrecision, Precision

from densevit.layers.fast.hardware import supports_bf16


class CastsModelOnly(Precision):
    """Casts the model only. Images stay uint8 until the model normalises them, targets are never cast, and tensors
    created in the forward pass keep the default dtype."""

    def convert_input(self, data: Any) -> Any:
        return data

    @contextmanager
    def forward_context(self) -> Iterator[None]:
        yield


class _Half(CastsModelOnly, HalfPrecision):
    """bf16-true and 16-true."""


class _Double(CastsModelOnly, DoublePrecision):
    """64-true."""


def casting_model_only(plugin: Precision) -> Precision:
    """Returns the plugin of the same precision that casts the model only, in place of Lightning's."""
    if isinstance(plugin, HalfPrecision):
        return _Half(plugin.precision)
    if isinstance(plugin, DoublePrecision):
        return _Double()
    return plugin


def trainer_arguments(precision: str, accelerator: str = "auto") -> dict[str, Any]:
    """Arguments of Lightning's Trainer for a precision. Warns of a CPU or GPU that has to emulate it."""
    name = resolve(precision, accelerator)
    device_type, fast = _device_type(accelerator), resolve("auto", accelerator)
    if name.startswith("bf16") and device_type != "mps" and not supports_bf16(device_type):
        warnings.warn(
            f"trainer.precision={precision}: this {'CPU' if device_type == 'cpu' else 'GPU'} has no bf16 instructions; "
            f"torch emulates them, many times slower. Fix: set trainer.precision=auto, which is {fast} here.",
            stacklevel=2,
        )
    return {"precision": name}


def resolve(precision: str, accelerator: str = "auto") -> str:
    """Lightning's name for a precision.

    precision: "auto", or one of Lightning's names ("32-true", "16-mixed", "bf16-mixed", ...). "auto" is bf16-mixed if
    the hardware supports bf16, else 16-mixed on an NVIDIA GPU, else 32-true.
    """
    if precision != "auto":
        return precision
    device_type = _device_type(accelerator)
    if supports_bf16(device_type):
        return "bf16-mixed"
    return "16-mixed" if device_type == "cuda" else "32-true"


def _device_type(accelerator: str) -> str:
    """ "cuda", "mps" or "cpu": the device type that Lightning uses for an accelerator."""
    if accelerator not in ("cpu", "mps") and torch.cuda.is_available():
        return "cuda"
    return "cpu" if accelerator == "cpu" or (accelerator == "auto" and not torch.backends.mps.is_available()) else "mps"
