"""A convolution with its norm, residual addition and ReLU (He et al. 2016, figure 5)."""

from torch import Tensor, nn


def conv_norm(conv: nn.Conv2d, norm: nn.Module, x: Tensor, relu: bool = True, residual: Tensor | None = None) -> Tensor:
    """norm(conv(x)) + residual, then ReLU. conv: the convolution, without bias. x: (B, C, H, W). residual: (B, C', H',
    W'), the shape of the result. Modules keep this function in an attribute, which `densevit.layers.fast` replaces.
    """
    y = norm(conv(x))
    if residual is not None:
        y = y + residual
    return y.relu() if relu else y
