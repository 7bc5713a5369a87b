"""Substitutes for a backbone's last blocks and tokens, for heads that take them (`Head.last_blocks`)."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from densevit.interfaces import LastBlocks


def last_blocks_of(features: Sequence[Tensor], count: int) -> LastBlocks:
    """Blocks without parameters on the cells of the coarsest feature (B, C, H, W), and their mean as a token."""
    *_, last = features
    levels = [_tokens(x) for x in features if x.shape == last.shape]
    norm = partial(_normalised, channels=last.shape[1])
    blocks = [_self_attention] * count
    return LastBlocks(levels[-1], (last.shape[2], last.shape[3]), blocks, norm, [norm(x) for x in levels])


def _tokens(feature: Tensor) -> Tensor:
    """The mean of the cells, then the cells: (B, 1 + N, C)."""
    cells = feature.flatten(2).transpose(1, 2)  # (B, N, C)
    return torch.cat([cells.mean(1, keepdim=True), cells], dim=1)


def takes_blocks(head: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...] | None:
    """A forward pre-hook that replaces features by blocks, for heads that run last blocks or take tokens."""
    features, *rest = inputs
    count = getattr(head, "last_blocks", None)
    return None if isinstance(features, LastBlocks) or count is None else (last_blocks_of(features, count), *rest)


def _self_attention(x: Tensor, bias: Tensor | None) -> Tensor:
    """Self-attention with a residual connection."""
    normed = _normalised(x, x.shape[-1])
    scores = normed @ normed.transpose(1, 2) / x.shape[-1] ** 0.5
    if bias is not None:
        scores = scores + bias[:, 0].to(scores.dtype)
    return x + (scores.softmax(-1) @ normed).to(x.dtype)


def _normalised(x: Tensor, channels: int) -> Tensor:
    return nn.functional.layer_norm(x, (channels,)).to(x.dtype)
