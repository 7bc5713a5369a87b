"""A convolution with its norm, residual addition and ReLU (He et al. 2016, figure 5)."""

from torch import Tensor, nn


def conv_norm(conv: nn.Conv2d, norm: nn.Module, x: Tensor, relu: bool = True, residual: Tensor | None = None) -> Tensor:
    """norm(conv(x)) + residual, then ReLU. conv: the convolution, without bias. x: (B, C, H, W). residual: (B, C', H',
    W'), the shape of the result.
    """
    y = norm(conv(x))
    if residual is not None:
        y = y.add_(residual)  # in place: neither convolutions nor norms need their result in the backward pass
    return y.relu_() if relu else y
