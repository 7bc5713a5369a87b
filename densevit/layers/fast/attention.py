"""Scaled dot-product attention with separate operations where they are faster on a CPU.

Computes `densevit.layers.attention.attention`. With few keys, torch's fused kernel is slower on a CPU: for queries 1.1
to 1.8 times in fp32 and 1.8 to 5.7 times in bf16, in windows with a learned bias 1.3 to 1.9 times
(docs/development/cpus.md). GPUs, exported files and many keys, for which the fused kernel also saves memory, use
torch's.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from densevit.layers import attention as plain
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
    """`densevit.layers.attention.attention`, with the faster implementation for the device and the number of keys."""
    if query.is_cuda or is_exporting() or key.shape[-2] > _max_unfused_keys(query, bias, dropout):
        return plain.attention(query, key, value, bias, dropout, scale)
    scale = 1 / math.sqrt(query.shape[-1]) if scale is None else scale
    batch = query.shape[:-2]
    q, k, v = (x.flatten(0, -3) for x in (query if scale == 1 else query * scale, key, value))
    scores = torch.bmm(q, k.mT).unflatten(0, batch)  # (..., N, S)
    if bias is not None:
        scores = scores + bias
    weights = F.dropout(scores.softmax(-1), dropout)
    return torch.bmm(weights.flatten(0, -3), v).unflatten(0, batch)


def _max_unfused_keys(query: Tensor, bias: Tensor | None, dropout: float) -> int:
    """The number of keys up to which separate operations are faster on a CPU.

    The fused kernel uses larger blocks from 192 queries on. It supports neither dropout nor gradients of a bias.
    """
    if torch.compiler.is_compiling() or query.device.type != "cpu" or query.dtype != torch.float32:
        return MAX_UNFUSED_KEYS
    served = not dropout and (bias is None or not bias.requires_grad) and query.shape[-2] > MAX_UNFUSED_TOKENS_FP32
    return MAX_UNFUSED_TOKENS_FP32 if served else MAX_UNFUSED_KEYS
