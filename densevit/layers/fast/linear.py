"""Linear layers and 1x1 convolutions with the product that is faster on a CPU.

Compute `nn.Linear` and `nn.Conv2d`, equal up to rounding. Linear layers as convolutions are 1.2 to 1.9 times as fast in
fp32 on AMD processors with AVX-512, and 1x1 convolutions as matrix products make a ResNet-50 in bf16 1.04 times as fast
(docs/development/speed.md, "Effect of each optimisation").
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from densevit.layers.fast.hardware import blas_lacks_avx512

MIN_TOKENS = 96  # with fewer, a linear layer is as fast
MAX_WEIGHTS_PER_TOKEN = 4000  # with more, the weight gradient is slower as a convolution than as a matrix product


class Linear(nn.Linear):
    """`nn.Linear`, computed as a 1x1 convolution in fp32 on an AMD CPU with AVX-512.

    Convolutions use oneDNN, linear layers MKL, which on AMD computes fp32 products with AVX2 only: half the speed
    (`tools/benchmarks/linear.py`). In bf16 both use oneDNN. The convolution does not support double backward.
    """

    def forward(self, x: Tensor) -> Tensor:
        """(..., in_features) -> (..., out_features)."""
        if not _as_convolution(x):
            return super().forward(x)
        y = _Convolution.apply(_map(x.reshape(-1, self.in_features)), self.weight, self.bias)
        return y.permute(0, 2, 3, 1).reshape(*x.shape[:-1], -1)


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


def _as_convolution(x: Tensor) -> bool:
    return (
        not torch.compiler.is_compiling()
        and x.device.type == "cpu"
        and x.dtype == _dtype(x) == torch.float32
        and x.numel() >= MIN_TOKENS * x.shape[-1]
        and torch.get_num_threads() > 1  # with one thread, torch uses the same BLAS for a 1x1 convolution
        and torch.backends.mkldnn.is_available()
        and blas_lacks_avx512()
    )


class _Convolution(torch.autograd.Function):
    """x: (1, C, N, 1) in channels-last memory. weight: (K, C). bias: (K,). Returns (1, K, N, 1)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return F.conv2d(x, weight[:, :, None, None], bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        needs_x, needs_weight, needs_bias = ctx.needs_input_grad
        convolved = needs_weight and weight.numel() <= MAX_WEIGHTS_PER_TOKEN * x.shape[2]
        grad_x, grad_weight, _ = torch.ops.aten.convolution_backward(
            grad,
            x,
            weight[:, :, None, None],
            None,  # the bias gradient is computed below
            stride=(1, 1),
            padding=(0, 0),
            dilation=(1, 1),
            transposed=False,
            output_padding=(0, 0),
            groups=1,
            output_mask=(needs_x, convolved, False),
        )
        rows = grad[0, :, :, 0]  # (K, N)
        if convolved:
            grad_weight = grad_weight[:, :, 0, 0]
        elif needs_weight:
            grad_weight = rows @ x[0, :, :, 0].t()
        return grad_x, grad_weight, rows.sum(1) if needs_bias else None


def _map(tokens: Tensor) -> Tensor:
    """(N, C) -> (1, C, N, 1) in channels-last memory, without a copy."""
    return tokens[None, :, None].permute(0, 3, 1, 2)
