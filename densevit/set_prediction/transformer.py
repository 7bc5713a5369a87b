"""DETR's transformer (Carion et al. 2020, A.3): positions are added to queries and keys of each attention."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from densevit.layers.attention import MultiHeadAttention
from densevit.layers.mlp import FeedForward
from densevit.layers.positions import LearnedPositions, mask_on_grid, sine_map
from densevit.set_prediction.limits import MAX_LAYERS, check_counts
from densevit.set_prediction.memory import Memory, cell_centres
from densevit.set_prediction.queries import Queries


@dataclass(frozen=True)
class Transformer:
    """The option `transformer` of a head; the defaults are DETR's.

    width: channels of tokens and queries, a multiple of 4 (sine and cosine of rows and columns). feedforward: width of
    the hidden layer of feed-forward networks. Raises ValueError for a number out of its range.
    """

    width: int = 256
    num_heads: int = 8
    encoder_layers: int = 6
    decoder_layers: int = 6
    feedforward: int = 2048
    dropout: float = 0.1

    def __post_init__(self) -> None:
        check_counts({"decoder_layers": self.decoder_layers}, 1, MAX_LAYERS)
        check_counts({"encoder_layers": self.encoder_layers}, 0, MAX_LAYERS)
        check_counts({"num_heads": self.num_heads, "feedforward": self.feedforward})
        if self.width % 4 or self.width < 4:
            raise ValueError(
                f"width is {self.width}; it must be a multiple of 4 (sine and cosine of rows and columns)."
            )
        if self.width % self.num_heads:
            raise ValueError(f"width is {self.width}; it must be a multiple of num_heads, {self.num_heads}.")
        if not 0 <= self.dropout <= 1:
            raise ValueError(f"dropout is {self.dropout:g}; expected a probability from 0 to 1.")


class _Residual(nn.Module):
    """Residual connection with dropout and layer norm: post-norm as in the paper, or pre-norm."""

    def __init__(self, width: int, dropout: float, pre_norm: bool) -> None:
        super().__init__()
        self.pre_norm = pre_norm
        self.norm = nn.LayerNorm(width)
        self.dropout = nn.Dropout(dropout)

    def before(self, x: Tensor) -> Tensor:
        return self.norm(x) if self.pre_norm else x

    def after(self, x: Tensor, branch: Tensor) -> Tensor:
        x = x + self.dropout(branch)
        return x if self.pre_norm else self.norm(x)


class EncoderLayer(nn.Module):
    """Self-attention over the feature map, then a feed-forward network (FFN) with this activation (Carion et al. 2020,
    A.3)."""

    def __init__(
        self, options: Transformer, pre_norm: bool = False, activation: Callable[[], nn.Module] = nn.ReLU
    ) -> None:
        super().__init__()
        width, num_heads, dropout = options.width, options.num_heads, options.dropout
        self.self_attention = MultiHeadAttention(width, num_heads, dropout)
        self.feedforward = FeedForward(width, options.feedforward, activation, dropout)
        self.residuals = nn.ModuleList(_Residual(width, dropout, pre_norm) for _ in range(2))

    def forward(self, memory: Tensor, positions: Tensor, attention_bias: Tensor | None) -> Tensor:
        """memory, positions: (B, S, C). attention_bias: (B, 1, 1, S), -inf at padding. Returns (B, S, C)."""
        self_attention, ffn = cast(Iterable[_Residual], self.residuals)
        x = self_attention.before(memory)
        with_pos = x + positions
        memory = self_attention.after(memory, self.self_attention(with_pos, with_pos, x, attention_bias))
        return ffn.after(memory, self.feedforward(ffn.before(memory)))


def encode(
    x: Tensor,
    padding_mask: Tensor,
    stride: int,
    layers: Iterable[nn.Module],
    norm: nn.Module,
    learned_positions: LearnedPositions | None = None,
) -> Memory:
    """The encoder over a feature map (Carion et al. 2020, A.3).

    x: (B, C, H, W), the projected features of this stride. padding_mask: (B, H', W') of the batch, True = padding.
    layers: `EncoderLayer`s, or none. learned_positions: replace sine positions, which are counted over the image
    without padding.
    """
    size = (x.shape[-2], x.shape[-1])
    padding = mask_on_grid(padding_mask, size)
    encoding = sine_map(padding, x.shape[1]) if learned_positions is None else learned_positions(padding)
    positions = encoding.flatten(1, 2).to(x.dtype)  # (B, S, C)
    padding = padding.flatten(1)
    attention_bias = torch.zeros_like(padding, dtype=x.dtype).masked_fill(padding, float("-inf"))[:, None, None]
    x = x.flatten(2).transpose(1, 2)  # (B, S, C)
    for layer in layers:
        x = layer(x, positions, attention_bias)
    x = norm(x)
    centres, cell = cell_centres(padding_mask, size, stride)
    return Memory(x, x + positions, padding, attention_bias, centres, cell, size)


class DecoderLayer(nn.Module):
    """Self-attention among queries, cross-attention to the memory, then a feed-forward network (FFN) (Carion et al.
    2020, A.3)."""

    def __init__(self, options: Transformer, pre_norm: bool = False) -> None:
        super().__init__()
        width, num_heads, dropout = options.width, options.num_heads, options.dropout
        self.self_attention = MultiHeadAttention(width, num_heads, dropout)
        self.cross_attention = MultiHeadAttention(width, num_heads, dropout)
        self.feedforward = FeedForward(width, options.feedforward, nn.ReLU, dropout)
        self.residuals = nn.ModuleList(_Residual(width, dropout, pre_norm) for _ in range(3))

    def forward(
        self,
        queries: Tensor,
        query_positions: Tensor,
        memory: Tensor,
        memory_with_pos: Tensor,
        attention_bias: Tensor | None = None,
        query_attention_bias: Tensor | None = None,
    ) -> Tensor:
        """queries, query_positions: (B, Q, C). memory, memory_with_pos (positions added): (B, S, C).

        attention_bias: added to the cross-attention scores, (B, 1 or heads, 1 or Q, S). query_attention_bias: added to
        the self-attention scores, (Q, Q) or (B, 1, Q, Q). Returns (B, Q, C).
        """
        self_attention, cross_attention, ffn = cast(Iterable[_Residual], self.residuals)
        x = self_attention.before(queries)
        with_pos = x + query_positions
        queries = self_attention.after(queries, self.self_attention(with_pos, with_pos, x, query_attention_bias))
        with_pos = cross_attention.before(queries) + query_positions
        attended = self.cross_attention(with_pos, memory_with_pos, memory, attention_bias)
        queries = cross_attention.after(queries, attended)
        return ffn.after(queries, self.feedforward(ffn.before(queries)))


class Decoder(nn.ModuleList):
    """Decoder layers over queries whose positions stay the same (Carion et al. 2020, A.3)."""

    def forward(self, queries: Queries, memory: Memory, norm: nn.Module) -> Tensor:
        """Returns the normalised states after each layer, (L, B, Q, C)."""
        x, states = queries.contents, []
        for layer in self:
            x = layer(x, queries.positions, memory.tokens, memory.with_pos, memory.attention_bias)
            states.append(norm(x))
        return torch.stack(states)
