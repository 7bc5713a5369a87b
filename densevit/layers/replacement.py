"""Replaces torch's layers in a built model by faster ones for CPUs.

Models are written with `nn.Linear`, `nn.Conv2d` and `nn.Dropout`. docs/benchmarks.md has what the faster layers gain on
kinds of CPUs; on other devices, and when compiled or exported, they compute as torch's do.
"""

from torch import nn

from densevit.layers.dropout import Dropout
from densevit.layers.hardware import blas_lacks_avx512
from densevit.layers.linear import Conv1x1, Linear
from densevit.layers.mlp import FeedForward, ReluDropoutFeedForward


def replace_layers(model: nn.Module) -> None:
    """Replaces layers in place: parameters, their names, hooks and the training mode stay, as does their result.

    Random numbers of dropout differ from torch's. Subclasses of torch's layers are not replaced.
    """
    for module in model.modules():
        faster = _faster(module)
        if faster is not None:
            module.__class__ = faster  # as torch's lazy layers become initialised ones


def _faster(module: nn.Module) -> type[nn.Module] | None:
    """The class that replaces that of a module, which adds no attributes to it."""
    if type(module) is nn.Linear and blas_lacks_avx512():
        return Linear
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
