"""What the tests of papers share: neighbours of cells, layers with norms written out."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.random_weights import randomise


def neighbours(x: Tensor, size: int) -> Tensor:
    """The cells of (B, C, H, W) around each cell, 0 outside: (B, C, size * size, H * W)."""
    return F.unfold(x, size, padding=size // 2).unflatten(1, (x.shape[1], -1))


# ---- layers of a convolution and a batch norm in evaluation mode, for tests in float64 ----


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
    return F.batch_norm(x, norm.running_mean, norm.running_var, norm.weight, norm.bias, eps=1e-3)


def conv_norm(layer: nn.Sequential, x: Tensor) -> Tensor:
    """The convolution and norm of a `ConvNorm`, without its activation."""
    convolution, norm = layer[0], layer[1]
    function, weight = (F.conv1d, convolution.weight.flatten(2)) if x.ndim == 3 else (F.conv2d, convolution.weight)
    padding, groups = convolution.weight.shape[-1] // 2, convolution.groups
    return normed(norm, function(x, weight, convolution.bias, padding=padding, groups=groups))


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
