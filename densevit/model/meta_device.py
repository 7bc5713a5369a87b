"""The meta device, on which modules have names and shapes of tensors, but no values."""

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor, nn

from densevit.errors import DensevitError

Built = TypeVar("Built")


def built_on_meta(build: Callable[[], Built]) -> Built:
    """Calls `build` on the meta device. Leaves torch's random state unchanged."""
    with torch.random.fork_rng(devices=[]):
        try:
            with torch.device("meta"):
                return build()
        except Exception:  # some constructors read values, which meta tensors lack
            return build()


def unsaved_buffers(module: nn.Module) -> dict[str, Tensor]:
    """The buffers that the state dict lacks, by name. Raises DensevitError for those without values."""
    saved = module.state_dict().keys()
    buffers = {name: buffer for name, buffer in module.named_buffers() if name not in saved}
    if empty := [name for name, buffer in buffers.items() if buffer.is_meta]:
        raise DensevitError(
            f"to_empty: {', '.join(empty[:4])} would have no values, because they are on the meta device, and no "
            "state dict has them. Fix: build the model outside of torch.device('meta')."
        )
    return buffers


def check_values(module: nn.Module, door: str) -> None:
    """Raises DensevitError for parameters on the meta device. door: the called function, for the message."""
    if any(parameter.is_meta for parameter in module.parameters()):
        raise DensevitError(
            f"{door}: the model is on the meta device, without values. Fix: build it outside of "
            "torch.device('meta'), or densevit.load it."
        )
