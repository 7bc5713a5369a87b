"""A convolution with its norm, residual addition and ReLU, without intermediate maps.

Computes `densevit.layers.conv_norm.conv_norm`, equal up to rounding. With a frozen batch norm, torch's layers take 0.98
to 1.15 times as long on a CPU (docs/development/cpus.md), with one more pass over each map (docs/development/speed.md).
"""

import torch
from torch import Tensor, nn

from densevit.layers.norms import FrozenBatchNorm2d


def conv_norm(conv: nn.Conv2d, norm: nn.Module, x: Tensor, relu: bool = True, residual: Tensor | None = None) -> Tensor:
    """`densevit.layers.conv_norm.conv_norm`, with in-place addition and ReLU.

    If the kernels have fewer elements than the map, the scale of a frozen batch norm multiplies the kernels instead of
    the map, and its shift becomes the bias of the convolution: one pass less over the map in the forward and backward
    pass. Hooks of `conv` and `norm` are then not called.
    """
    if isinstance(norm, FrozenBatchNorm2d) and not torch.compiler.is_compiling() and _map_is_larger(conv, x):
        scale, shift = norm.affine()
        weight = conv.weight * scale.to(conv.weight.dtype)[:, None, None, None]
        y = conv._conv_forward(x, weight, shift.to(weight.dtype))
    else:
        y = norm(conv(x))
    # Neither convolutions nor norms need their result in the backward pass. In-place operations on a view, which
    # `Conv1x1` returns in bf16, would copy gradients.
    in_place = torch.compiler.is_compiling() or not y._is_view()
    if residual is not None:
        y = y.add_(residual) if in_place else y + residual
    if not relu:
        return y
    return y.relu_() if in_place else y.relu()


def _map_is_larger(conv: nn.Conv2d, x: Tensor) -> bool:
    """Whether the result has more elements than the kernels, both divided by the number of output channels."""
    cells = x.shape[0] * x.shape[2] * x.shape[3] // (conv.stride[0] * conv.stride[1])
    return cells > conv.weight[0].numel()
