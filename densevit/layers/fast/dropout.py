"""Dropout (Srivastava et al. 2014), also fused with adjacent operations: faster on a CPU, with less memory.

Computes `nn.Dropout`, and dropout after ReLU or softmax, with other random numbers, and p rounded to 16 bits. On a CPU,
torch's dropout draws one random number per element, which takes as long as ten other passes over the tensor, and stores
noise of the size of the tensor. Here 64 random bits are used for four elements: 1.4 to 2.6 times as fast
(docs/development/cpus.md).
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from densevit.layers.mlp import FeedForward

LEVELS = 2**16  # probabilities are multiples of 1 / LEVELS


class Dropout(nn.Dropout):
    """Dropout that on a CPU draws random numbers faster than torch's and stores one byte per element."""

    def forward(self, x: Tensor) -> Tensor:
        """(...) -> (...)."""
        if not (self.training and self.p and _joined(x, self.p)):
            return super().forward(x)
        return _Dropout.apply(x, self.p)


class ReluDropoutFeedForward(FeedForward):
    """A `FeedForward` with ReLU and dropout in one operation, which on a CPU stores less and draws faster."""

    def forward(self, x: Tensor) -> Tensor:
        """(..., C) -> (..., C)."""
        if not (self.training and self.dropout.p):
            return super().forward(x)
        return self.contract(relu_dropout(self.expand(x), self.dropout.p))


def relu_dropout(x: Tensor, p: float) -> Tensor:
    """dropout(relu(x)). Stores only the result."""
    if not _joined(x, p):
        return F.dropout(F.relu(x), p)
    return _ReluDropout.apply(x, p)


def dropout_matmul(weights: Tensor, value: Tensor, p: float) -> Tensor:
    """dropout(weights) @ value, for attention. weights: (..., N, S), from a softmax. value: (..., S, D).

    Stores one byte per weight besides `weights`, which softmax stores as well.
    """
    if not _joined(weights, p):
        return F.dropout(weights, p) @ value
    return _DropoutMatmul.apply(weights, value, p)


def _joined(x: Tensor, p: float) -> bool:
    """Whether to use this implementation: not on a GPU, where dropout is one kernel that stores a mask, and not if all
    elements are dropped."""
    return x.device.type == "cpu" and _dropped(p) < LEVELS and not torch.compiler.is_compiling()


def _dropped(p: float) -> int:
    return round(p * LEVELS)


def _keep_mask(x: Tensor, p: float) -> Tensor:
    """A bool mask with the shape of x, False with probability p."""
    bits = torch.empty(-(-x.numel() // 4), dtype=torch.int64).random_(-(2**63), None)
    return bits.view(torch.int16)[: x.numel()].view(x.shape) >= _dropped(p) - LEVELS // 2


def _scale(p: float) -> float:
    """1 / (1 - p) for the rounded p."""
    return LEVELS / (LEVELS - _dropped(p))


class _Dropout(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, p: float) -> Tensor:
        mask = _keep_mask(x, p)
        ctx.save_for_backward(mask)
        ctx.p = p
        return (x * mask).mul_(_scale(p))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (mask,) = ctx.saved_tensors
        return (grad * mask).mul_(_scale(ctx.p)), None


class _ReluDropout(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, p: float) -> Tensor:
        y = x.relu().mul_(_keep_mask(x, p)).mul_(_scale(p))
        ctx.save_for_backward(y)
        ctx.p = p
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (y,) = ctx.saved_tensors
        return torch.ops.aten.threshold_backward(grad, y, 0).mul_(_scale(ctx.p)), None


class _DropoutMatmul(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weights: Tensor, value: Tensor, p: float) -> Tensor:
        mask = _keep_mask(weights, p)
        ctx.save_for_backward(weights, value, mask)
        ctx.p = p
        return (weights * mask).mul_(_scale(p)) @ value

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        weights, value, mask = ctx.saved_tensors
        # Under autocast the product is in half precision, but weights are in fp32.
        keep = mask.to(weights.dtype).mul_(_scale(ctx.p))
        grad_weights = (grad @ value.to(grad.dtype).transpose(-2, -1)).to(weights.dtype).mul_(keep)
        grad_value = keep.mul_(weights).to(grad.dtype).transpose(-2, -1) @ grad
        return grad_weights, grad_value.to(value.dtype), None
