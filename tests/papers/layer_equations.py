"""Layers of a convolution and a batch norm in evaluation mode, written out, for tests in float64."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.papers.small_models import randomise


def randomised(module: nn.Module) -> nn.Module:
    """The module in evaluation mode and float64, with random values in every parameter and running statistic."""
    module = randomise(module).eval().double().requires_grad_(False)
    for name, value in module.named_buffers():
        if name.endswith("prior"):
            value.zero_()
            value[-1] = torch.tensor(9.0 * (len(value) - 1), dtype=value.dtype).log()
    return module


def normed(norm: nn.Module, x: Tensor) -> Tensor:
    """Batch norm of (B, C, ...) by the running statistics."""
    mean, var, weight, bias = (
        value.view(-1, *[1] * (x.ndim - 2)) for value in (norm.running_mean, norm.running_var, norm.weight, norm.bias)
    )
    return (x - mean) / (var + 1e-3).sqrt() * weight + bias


def conv_norm(layer: nn.Sequential, x: Tensor) -> Tensor:
    """The convolution and norm of a `ConvNorm`, without its activation."""
    convolution, norm = layer[0], layer[1]
    weight = convolution.weight
    if weight.shape[2:].numel() == 1:
        y = torch.einsum("oi,bi...->bo...", weight.flatten(1), x)
        y = y if convolution.bias is None else y + convolution.bias.view(-1, *[1] * (x.ndim - 2))
    else:
        y = F.conv2d(x, weight, convolution.bias, padding=weight.shape[-1] // 2, groups=convolution.groups)
    return normed(norm, y)


def attended(
    attention: nn.Module, query: Tensor, key: Tensor, value: Tensor, masked: Tensor | None = None, num_heads: int = 2
) -> Tensor:
    """The attention of a `NormedAttention`, without its activation. query, key, value: (B, C, N). masked: (B, S)."""
    q, k, v = (x.view(x.shape[0], num_heads, -1, x.shape[2]) for x in (query, key, value))
    scores = normed(attention.norm_scores, torch.einsum("bhdn,bhdm->bhnm", q, k))
    if masked is not None:
        scores = scores.masked_fill(masked[:, None, None], float("-inf"))
    retrieved = torch.einsum("bhnm,bhdm->bhdn", scores.softmax(-1), v)
    return normed(attention.norm_values, retrieved.flatten(1, 2))
