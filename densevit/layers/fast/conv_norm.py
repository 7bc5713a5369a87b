"""A convolution with a frozen batch norm in its kernels, which saves a pass over each map on a CPU.

Computes `densevit.layers.norms.conv_norm`: a step of DETR-R50 takes 1.03 times as long without it in fp32
(docs/development/cpus.md).
"""

import torch
from torch import Tensor, nn

from densevit.layers import norms as plain
from densevit.layers.norms import FrozenBatchNorm2d


def conv_norm(conv: nn.Conv2d, norm: nn.Module, x: Tensor, relu: bool = True, residual: Tensor | None = None) -> Tensor:
    """`densevit.layers.norms.conv_norm`. On a CPU, the scale of a frozen batch norm multiplies the kernels, if they
    have fewer elements than the map and no module has hooks, and its shift is the bias.
    """
    if isinstance(norm, FrozenBatchNorm2d) and not (_has_hooks(conv) or _has_hooks(norm)) and _gains(conv, x):
        scale, shift = norm.affine()
        kernels = conv.weight * scale[:, None, None, None].to(conv.weight.dtype)
        return plain.add_relu(conv._conv_forward(x, kernels, shift.to(kernels.dtype)), relu, residual)
    return plain.conv_norm(conv, norm, x, relu, residual)


def _gains(conv: nn.Conv2d, x: Tensor) -> bool:
    """Whether a map on the CPU has more elements than the kernels, both divided by the number of output channels."""
    if torch.compiler.is_compiling() or x.device.type != "cpu" or type(conv) is not nn.Conv2d:  # such as an adapter's
        return False
    return x.shape[0] * x.shape[2] * x.shape[3] > conv.weight[0].numel() * conv.stride[0] * conv.stride[1]


def _has_hooks(m: nn.Module) -> bool:
    return bool(m._forward_hooks or m._forward_pre_hooks or m._backward_hooks or m._backward_pre_hooks)
