"""A convolution with its norm, residual addition and ReLU (He et al. 2016, figure 5)."""

from torch import Tensor, nn


def conv_norm(conv: nn.Conv2d, norm: nn.Module, x: Tensor, relu: bool = True, residual: Tensor | None = None) -> Tensor:
    """norm(conv(x)) + residual, then ReLU. conv: the convolution, without bias. x: (B, C, H, W). residual: (B, C', H',
    W'), the shape of the result. Modules keep this function in an attribute, which `densevit.layers.fast` replaces.
    """
    return add_relu(norm(conv(x)), relu, residual)


def add_relu(y: Tensor, relu: bool, residual: Tensor | None) -> Tensor:
    """y + residual, then ReLU, in place: neither convolutions nor norms need their result in the backward pass."""
    if residual is not None:
        y = y.add_(residual)
    return y.relu_() if relu else y
