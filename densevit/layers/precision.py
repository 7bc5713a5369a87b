"""Computation and optimiser states in at least fp32, regardless of autocast and the dtype of the weights."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.utils._pytree import tree_map, tree_map_only

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
    return tree_map_only(Tensor, at_least_fp32, values)


def keep_state_types(optimizer: Optimizer) -> None:
    """Lets `load_state_dict` keep the types of optimiser states, which torch casts to the parameters' types.

    torch's cast remains if the parameters had other types when the states were saved, such as before a change of
    precision.
    """
    loaded: dict[str, Any] = {}

    def types(optimizer: Optimizer) -> list[str]:
        return sorted({str(parameter.dtype) for group in optimizer.param_groups for parameter in group["params"]})

    def keep(optimizer: Optimizer) -> None:
        if loaded.get("parameter_types") == types(optimizer):
            indices = (index for group in loaded["param_groups"] for index in group["params"])
            parameters = (parameter for group in optimizer.param_groups for parameter in group["params"])
            for index, parameter in zip(indices, parameters, strict=True):
                state, saved = optimizer.state.get(parameter, {}), loaded["state"].get(index, {})
                state |= {key: tree_map(_with_type, state[key], value) for key, value in saved.items() if key in state}
        loaded.clear()

    optimizer.register_state_dict_post_hook(lambda optimizer, state: {**state, "parameter_types": types(optimizer)})
    optimizer.register_load_state_dict_pre_hook(lambda _, state: loaded.update(state))
    optimizer.register_load_state_dict_post_hook(keep)


def _with_type(x: Any, saved: Any) -> Any:
    """Returns the saved tensor on the device of x if the two dtypes differ, else x."""
    both = isinstance(x, Tensor) and isinstance(saved, Tensor)
    return saved.to(x.device) if both and x.dtype != saved.dtype else x
