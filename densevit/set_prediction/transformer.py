"""DETR's transformer layers (Carion et al. 2020, A.3): positions are added to queries and keys of each attention."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import cast

from torch import Tensor, nn

from densevit.layers.attention import MultiHeadAttention
from densevit.layers.mlp import FeedForward
from densevit.set_prediction.limits import MAX_LAYERS, check_counts


@dataclass(frozen=True)
class Transformer:
    """The option `transformer` of a head; the defaults are DETR's.

    width: channels of tokens and queries, a multiple of 4 (sine and cosine of rows and columns). feedforward: width of
    the hidden layer of feed-forward networks.
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
            raise ValueError(f"dropout is {self.dropout:g}; a probability is between 0 and 1.")


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
    """Self-attention over the feature map, then a feed-forward network (FFN) with this activation."""

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


class DecoderLayer(nn.Module):
    """Self-attention among queries, cross-attention to the memory, then a feed-forward network (FFN)."""

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
