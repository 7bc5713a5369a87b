"""Replaces plain layers in a built model by faster ones.

Models are written with `nn.Linear`, `nn.Conv2d` and `nn.Dropout`, and with the layers and functions of
`densevit.layers`. docs/development/cpus.md and gpu.md have what the faster ones gain.
"""

from types import FunctionType
from typing import Any

from torch import nn

from densevit.layers import attention, conv_norm, deformable_attention, windows
from densevit.layers.fast import attention as fast_attention
from densevit.layers.fast import conv_norm as fast_conv_norm
from densevit.layers.fast import deformable_attention as fast_deformable_attention
from densevit.layers.fast import windows as fast_windows
from densevit.layers.fast.dropout import Dropout, ReluDropoutFeedForward
from densevit.layers.fast.linear import Conv1x1
from densevit.layers.mlp import FeedForward

FUNCTIONS: dict[Any, Any] = {
    attention.attention: fast_attention.attention,
    conv_norm.conv_norm: fast_conv_norm.conv_norm,
    deformable_attention.multi_scale_deformable_attention: fast_deformable_attention.multi_scale_deformable_attention,
    windows.shifted_windows: fast_windows.shifted_windows,
}
"""The faster implementation of each plain function; both take the same arguments."""


def replace_layers(model: nn.Module) -> None:
    """Replaces layers in place: parameters, their names, hooks and the training mode stay, as does their result.

    Replaces the class of torch's layers, but not of their subclasses, and the plain functions that modules keep in
    attributes, such as `self.attention = attention`. Random numbers of dropout differ from torch's.
    """
    for module in model.modules():
        faster = _faster(module)
        if faster is not None:
            module.__class__ = faster  # as torch's lazy layers become initialised ones
        for name, value in vars(module).items():
            if isinstance(value, FunctionType) and value in FUNCTIONS:
                setattr(module, name, FUNCTIONS[value])


def _faster(module: nn.Module) -> type[nn.Module] | None:
    """The class that replaces that of a module, which adds no attributes to it."""
    if type(module) is nn.Conv2d and module.kernel_size == (1, 1) and _is_a_product(module):
        return Conv1x1
    if type(module) is nn.Dropout and not module.inplace:
        return Dropout
    if type(module) is FeedForward and isinstance(module.activation, nn.ReLU):
        return ReluDropoutFeedForward
    return None


def _is_a_product(convolution: nn.Conv2d) -> bool:
    """Whether a 1x1 convolution is a matrix product of the cells and the weights."""
    return convolution.bias is None and convolution.groups == 1 and convolution.padding == (0, 0)
