"""Replaces four plain functions of `densevit.layers` in a built model by faster ones.

docs/development/cpus.md and gpu.md list the measured gains.
"""

from types import FunctionType
from typing import Any

from torch import nn

from densevit.layers import attention, deformable_attention, norms, windows
from densevit.layers.fast import attention as fast_attention
from densevit.layers.fast import conv_norm as fast_conv_norm
from densevit.layers.fast import deformable_attention as fast_deformable_attention
from densevit.layers.fast import windows as fast_windows

FUNCTIONS: dict[Any, Any] = {
    attention.attention: fast_attention.attention,
    norms.conv_norm: fast_conv_norm.conv_norm,
    deformable_attention.multi_scale_deformable_attention: fast_deformable_attention.multi_scale_deformable_attention,
    windows.shifted_windows: fast_windows.shifted_windows,
}
"""The faster implementation of each plain function; both take the same arguments."""


def replace_layers(model: nn.Module) -> None:
    """Replaces the functions of `FUNCTIONS` that modules keep in attributes, such as `self.attention`, in place.

    Modules and parameters stay; results are equal up to rounding. Models that densevit builds have the faster
    functions, except for given instances.

    Example:
        >>> backbone = densevit.create_backbone("swin", variant="nano")
        >>> densevit.model.replace_layers(backbone)
        >>> {x.shifted_windows.__module__ for x in backbone.modules() if hasattr(x, "shifted_windows")}
        {'densevit.layers.fast.windows'}
    """
    for module in model.modules():
        for name, value in vars(module).items():
            if isinstance(value, FunctionType) and value in FUNCTIONS:
                setattr(module, name, FUNCTIONS[value])
