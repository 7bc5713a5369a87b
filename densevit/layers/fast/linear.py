"""1x1 convolutions as matrix products, which are faster in bf16 on a CPU; equal up to rounding."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Conv1x1(nn.Conv2d):
    """A 1x1 `nn.Conv2d` without padding, groups and bias, computed as a matrix product in bf16 on a CPU.

    In this case the backward pass of oneDNN's convolution takes up to twice as long, for many weights and few cells.
    """

    def _conv_forward(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """(B, C, H, W) -> (B, outputs, ceil(H / stride), ceil(W / stride))."""
        if torch.compiler.is_compiling() or not _as_product(x):
            return super()._conv_forward(x, weight, bias)
        rows, columns = self.stride
        cells = x if self.stride == (1, 1) else x[:, :, ::rows, ::columns]
        return F.linear(cells.permute(0, 2, 3, 1), weight.flatten(1), bias).permute(0, 3, 1, 2)


def _dtype(x: Tensor) -> torch.dtype:
    """Dtype in which a product with x is computed, considering autocast."""
    return torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else x.dtype


def _as_product(x: Tensor) -> bool:
    return x.device.type == "cpu" and _dtype(x) == torch.bfloat16 and x.ndim == 4
