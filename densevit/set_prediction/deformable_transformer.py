"""The layers of the deformable transformer (Zhu et al. 2021, section 4.2): post-norm, as in DETR."""

from collections.abc import Iterable, Sequence

from torch import Tensor, nn

from densevit.layers.attention import MultiHeadAttention, xavier_initialise
from densevit.layers.deformable_attention import MultiScaleDeformableAttention, Sampling
from densevit.layers.mlp import FeedForward
from densevit.set_prediction.levels import Levels
from densevit.set_prediction.transformer import Transformer


class DeformableEncoderLayer(nn.Module):
    """Deformable self-attention over the cells of all levels, then a feed-forward network (FFN)."""

    def __init__(self, options: Transformer, num_levels: int, num_points: int, deterministic: bool = False) -> None:
        super().__init__()
        width, num_heads, dropout = options.width, options.num_heads, options.dropout
        self.self_attention = MultiScaleDeformableAttention(width, num_levels, num_heads, num_points, deterministic)
        self.self_attention_norm = nn.LayerNorm(width)
        self.ffn = FeedForward(width, options.feedforward, nn.ReLU, dropout)
        self.ffn_norm = nn.LayerNorm(width)
        self.dropout = nn.Dropout(dropout)
        xavier_initialise(self.ffn)

    def forward(self, memory: Tensor, levels: Levels, reference: Tensor) -> Tensor:
        """memory: (B, S, C). reference: (B, S, L, 2). Returns (B, S, C)."""
        with_pos = memory + levels.positions
        attended = self.self_attention(with_pos, reference, memory, levels.shapes, levels.padding)
        memory = self.self_attention_norm(memory + self.dropout(attended))
        return self.ffn_norm(memory + self.dropout(self.ffn(memory)))


class DeformableDecoderLayer(nn.Module):
    """Self-attention among queries, deformable cross-attention to the memory, then a feed-forward network (FFN)."""

    def __init__(
        self,
        options: Transformer,
        num_levels: int,
        num_points: int | Sequence[int],
        deterministic: bool = False,
        sampling: Sampling = "grid_sample",
    ) -> None:
        super().__init__()
        width, num_heads, dropout = options.width, options.num_heads, options.dropout
        self.self_attention = MultiHeadAttention(width, num_heads, dropout)
        self.self_attention_norm = nn.LayerNorm(width)
        self.cross_attention = MultiScaleDeformableAttention(
            width, num_levels, num_heads, num_points, deterministic, sampling
        )
        self.cross_attention_norm = nn.LayerNorm(width)
        self.ffn = FeedForward(width, options.feedforward, nn.ReLU, dropout)
        self.ffn_norm = nn.LayerNorm(width)
        self.dropout = nn.Dropout(dropout)
        xavier_initialise(self.ffn, self.self_attention)

    def forward(
        self,
        queries: Tensor,
        positions: Tensor,
        reference: Tensor,
        memory: Tensor,
        shapes: Sequence[tuple[int, int]],
        padding: Tensor,
        attention_bias: Tensor | None = None,
        groups: int = 1,
    ) -> Tensor:
        """queries, positions: (B, Q, C). reference: (B, Q, L, 2 or 4). memory: (B, S, C). Returns (B, Q, C).

        attention_bias: added to the self-attention scores, (Q, Q) or (B, 1, Q, Q). groups: the number of groups of
        queries, one after another, in each of which queries attend to each other (Group DETR, Chen et al. 2023).
        """
        with_pos, values = queries + positions, queries
        if groups > 1:
            with_pos, values = (x.unflatten(1, (groups, -1)).flatten(0, 1) for x in (with_pos, values))
        attended = self.self_attention(with_pos, with_pos, values, attention_bias)
        if groups > 1:
            attended = attended.unflatten(0, (-1, groups)).flatten(1, 2)
        queries = self.self_attention_norm(queries + self.dropout(attended))
        attended = self.cross_attention(queries + positions, reference, memory, shapes, padding)
        queries = self.cross_attention_norm(queries + self.dropout(attended))
        return self.ffn_norm(queries + self.dropout(self.ffn(queries)))


def encode(levels: Levels, layers: Iterable[nn.Module]) -> Tensor:
    """The memory (B, S, C) of all levels. layers: `DeformableEncoderLayer`s."""
    memory, reference = levels.tokens, levels.on_maps(levels.centres)
    for layer in layers:
        memory = layer(memory, levels, reference)
    return memory
