"""DETR's transformer layers (Carion et al. 2020, A.3): positions are added to queries and keys at each attention."""

from collections.abc import Iterable
from typing import cast

from torch import Tensor, nn

from densevit.layers.attention import MultiHeadAttention
from densevit.layers.mlp import FeedForward


class _Residual(nn.Module):
    """A branch's dropout and layer norm, after the sum (post-norm, the paper's) or before the branch (pre-norm)."""

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
    """Self-attention over the map, then a perceptron."""

    def __init__(self, width: int, num_heads: int, feedforward: int, dropout: float, pre_norm: bool) -> None:
        super().__init__()
        self.self_attention = MultiHeadAttention(width, num_heads, dropout)
        self.feedforward = FeedForward(width, feedforward, nn.ReLU, dropout)
        self.residuals = nn.ModuleList(_Residual(width, dropout, pre_norm) for _ in range(2))

    def forward(self, memory: Tensor, positions: Tensor, hidden: Tensor | None) -> Tensor:
        """memory, positions: (B, S, C). hidden: (B, 1, 1, S), -inf at padding. Returns (B, S, C)."""
        attend, think = cast(Iterable[_Residual], self.residuals)
        x = attend.before(memory)
        located = x + positions
        memory = attend.after(memory, self.self_attention(located, located, x, hidden))
        return think.after(memory, self.feedforward(think.before(memory)))


class DecoderLayer(nn.Module):
    """Self-attention among queries, cross-attention to the memory, then a perceptron."""

    def __init__(self, width: int, num_heads: int, feedforward: int, dropout: float, pre_norm: bool) -> None:
        super().__init__()
        self.self_attention = MultiHeadAttention(width, num_heads, dropout)
        self.cross_attention = MultiHeadAttention(width, num_heads, dropout)
        self.feedforward = FeedForward(width, feedforward, nn.ReLU, dropout)
        self.residuals = nn.ModuleList(_Residual(width, dropout, pre_norm) for _ in range(3))

    def forward(
        self,
        queries: Tensor,
        query_positions: Tensor,
        memory: Tensor,
        located_memory: Tensor,
        hidden: Tensor | None = None,
        hidden_queries: Tensor | None = None,
    ) -> Tensor:
        """queries, query_positions: (B, Q, C). memory, located_memory (with positions added): (B, S, C).

        hidden: added to the cross-attention's scores, (B, 1 or heads, 1 or Q, S); hidden_queries: to the
        self-attention's, (Q, Q). Returns (B, Q, C).
        """
        confer, attend, think = cast(Iterable[_Residual], self.residuals)
        x = confer.before(queries)
        located = x + query_positions
        queries = confer.after(queries, self.self_attention(located, located, x, hidden_queries))
        x = attend.before(queries)
        queries = attend.after(queries, self.cross_attention(x + query_positions, located_memory, memory, hidden))
        return think.after(queries, self.feedforward(think.before(queries)))
