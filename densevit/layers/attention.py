"""Scaled dot-product attention (Vaswani et al. 2017, section 3.2), with the faster implementation for the device."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from densevit.layers.dropout import dropout_matmul
from densevit.layers.tracing import is_exporting

MAX_UNFUSED_KEYS = 1024  # on a CPU
MAX_UNFUSED_TOKENS_FP32 = 191  # queries and keys; above, the fused kernel is as fast in fp32, if it serves the bias


def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    bias: Tensor | None = None,
    dropout: float = 0.0,
    scale: float | None = None,
) -> Tensor:
    """softmax(scale query key^T + bias) value.

    query: (..., N, D). key, value: (..., S, D). bias: added to the scores, broadcast to (..., N, S), -inf for
    masked keys; each query needs an unmasked key. scale: None for 1 / sqrt(D).
    Uses the fused kernel on a GPU, and on a CPU with many keys, where it also saves memory; with few keys separate
    operations are faster on a CPU (`tools/benchmarks/attention.py`, `portability.py`).
    """
    if query.is_cuda or is_exporting() or key.shape[-2] > _max_unfused_keys(query, bias, dropout):
        return F.scaled_dot_product_attention(query, key, value, attn_mask=bias, dropout_p=dropout, scale=scale)
    scale = 1 / math.sqrt(query.shape[-1]) if scale is None else scale
    scores = (query if scale == 1 else query * scale) @ key.transpose(-2, -1)  # (..., N, S)
    if bias is not None:
        scores = scores + bias
    weights = scores.softmax(-1)
    return dropout_matmul(weights, value, dropout) if dropout else weights @ value


def _max_unfused_keys(query: Tensor, bias: Tensor | None, dropout: float) -> int:
    """The number of keys up to which separate operations are faster on a CPU.

    The fused kernel uses larger blocks from 192 queries on. It supports neither dropout nor gradients of a bias.
    """
    if torch.compiler.is_compiling() or query.device.type != "cpu" or query.dtype != torch.float32:
        return MAX_UNFUSED_KEYS
    served = not dropout and (bias is None or not bias.requires_grad) and query.shape[-2] > MAX_UNFUSED_TOKENS_FP32
    return MAX_UNFUSED_TOKENS_FP32 if served else MAX_UNFUSED_KEYS


class MultiHeadAttention(nn.Module):
    """Multi-head attention with separate query, key, value and output projections."""

    def __init__(self, width: int, num_heads: int, dropout: float = 0.0) -> None:
        super().__init__()
        if width % num_heads:
            raise ValueError(f"width is {width}; it must be a multiple of num_heads, {num_heads}.")
        self.num_heads, self.dropout = num_heads, dropout
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.output = nn.Linear(width, width)
        for layer in (self.query, self.key, self.value, self.output):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None = None) -> Tensor:
        """query: (B, N, C). key, value: (B, S, C). bias: broadcast to (B, heads, N, S). Returns (B, N, C)."""
        q, k, v = (self._split(x) for x in (self.query(query), self.key(key), self.value(value)))
        if bias is not None:
            bias = bias.to(q.dtype)
        x = attention(q, k, v, bias, self.dropout if self.training else 0.0)
        return self.output(x.transpose(1, 2).flatten(2))

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)  # (B, heads, N, D)
