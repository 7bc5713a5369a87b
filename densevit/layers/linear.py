"""Linear layers, of tokens and of a map's cells, in the form that is fastest where they run."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

FEWEST_TOKENS = 96  # below, a linear layer is as quick
WEIGHTS_A_TOKEN = 4000  # above, a convolution's gradient by its weights takes longer than a matrix product


class Linear(nn.Linear):
    """`nn.Linear`, written as a 1x1 convolution on a CPU with AVX-512 in float32.

    A convolution goes to oneDNN, a linear layer to the BLAS that torch ships, whose float32 products stay on AVX2
    outside Intel's own processors: half the speed there (`tools/benchmarks/linear.py`). In bf16 both go to oneDNN.
    The convolution's gradient has no gradient of its own.
    """

    def forward(self, x: Tensor) -> Tensor:
        """(..., in_features) -> (..., out_features)."""
        if not _as_convolution(x):
            return super().forward(x)
        y = _Convolution.apply(_map(x.reshape(-1, self.in_features)), self.weight, self.bias)
        return y.permute(0, 2, 3, 1).reshape(*x.shape[:-1], -1)


class Conv1x1(nn.Conv2d):
    """A 1x1 convolution without bias, written as a matrix product on a CPU in bf16, where maps are channels-last.

    oneDNN's convolution takes up to twice as long there for its gradients, the more weights and the fewer cells.
    """

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__(inputs, outputs, 1, stride=stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, outputs, ceil(H / stride), ceil(W / stride))."""
        if torch.compiler.is_compiling() or x.device.type != "cpu" or _dtype(x) != torch.bfloat16:
            return super().forward(x)
        rows, columns = self.stride
        cells = x if self.stride == (1, 1) else x[:, :, ::rows, ::columns]
        return F.linear(cells.permute(0, 2, 3, 1), self.weight.flatten(1)).permute(0, 3, 1, 2)


def _dtype(x: Tensor) -> torch.dtype:
    """What a product with x is computed in."""
    return torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else x.dtype


def _as_convolution(x: Tensor) -> bool:
    return (
        not torch.compiler.is_compiling()
        and x.device.type == "cpu"
        and x.dtype == _dtype(x) == torch.float32
        and x.numel() >= FEWEST_TOKENS * x.shape[-1]
        and torch.get_num_threads() > 1  # with one, torch computes a 1x1 convolution by the same BLAS
        and torch.backends.mkldnn.is_available()
        and torch.backends.cpu.get_cpu_capability() == "AVX512"
    )


class _Convolution(torch.autograd.Function):
    """x (1, C, N, 1), in channels-last memory, by weight (K, C), plus bias (K,): (1, K, N, 1)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return F.conv2d(x, weight[:, :, None, None], bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        by_x, by_weight, by_bias = ctx.needs_input_grad
        convolved = by_weight and weight.numel() <= WEIGHTS_A_TOKEN * x.shape[2]
        for_x, for_weight, _ = torch.ops.aten.convolution_backward(
            grad,
            x,
            weight[:, :, None, None],
            None,  # the bias has its gradient below
            stride=(1, 1),
            padding=(0, 0),
            dilation=(1, 1),
            transposed=False,
            output_padding=(0, 0),
            groups=1,
            output_mask=(by_x, convolved, False),
        )
        rows = grad[0, :, :, 0]  # (K, N)
        if convolved:
            for_weight = for_weight[:, :, 0, 0]
        elif by_weight:
            for_weight = rows @ x[0, :, :, 0].t()
        return for_x, for_weight, rows.sum(1) if by_bias else None


def _map(tokens: Tensor) -> Tensor:
    """(N, C) -> (1, C, N, 1) in channels-last memory, without a copy."""
    return tokens[None, :, None].permute(0, 3, 1, 2)
