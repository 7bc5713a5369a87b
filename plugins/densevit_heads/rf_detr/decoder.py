"""The decoder layer of LW-DETR (Chen et al. 2024): self-attention within groups of queries."""

from torch import Tensor, nn

from densevit.layers.attention import MultiHeadAttention
from densevit.layers.deformable_attention import MultiScaleDeformableAttention
from densevit.set_prediction.deformable_transformer import DecoderLayer
from densevit.set_prediction.transformer import Transformer


class GroupAttention(MultiHeadAttention):
    """Multi-head attention within each of G groups of queries in training; evaluation has one group."""

    def __init__(self, width: int, num_heads: int, dropout: float, num_groups: int) -> None:
        super().__init__(width, num_heads, dropout)
        self.num_groups = num_groups
        for layer in (self.query, self.key, self.value):
            nn.init.xavier_uniform_(layer.weight, gain=0.5**0.5)  # of the fused projection, (3C, C)

    def forward(self, query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None = None) -> Tensor:
        """query, key, value: (B, G * Q, C), group by group. Returns (B, G * Q, C)."""
        split = (query.shape[0], self.num_groups if self.training else 1)
        q, k, v = (x.unflatten(1, (split[1], -1)).flatten(0, 1) for x in (query, key, value))  # (B * G, Q, C)
        return super().forward(q, k, v, bias).unflatten(0, split).flatten(1, 2)


class GroupDecoderLayer(DecoderLayer):
    """Deformable DETR's decoder layer with attention within groups; cross-attention has its own number of heads."""

    def __init__(
        self,
        options: Transformer,
        num_levels: int,
        num_points: int,
        cross_attention_heads: int,
        num_groups: int,
        deterministic: bool,
    ) -> None:
        super().__init__(options, num_levels, num_points, deterministic)
        self.self_attention = GroupAttention(options.width, options.num_heads, options.dropout, num_groups)
        self.cross_attention = MultiScaleDeformableAttention(
            options.width, num_levels, cross_attention_heads, num_points, deterministic
        )
