"""Scaled dot-product attention and multi-head attention (Vaswani et al. 2017, section 3.2)."""

from torch import Tensor, nn
from torch.nn import functional as F

from densevit.layers.mlp import FeedForward


def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    bias: Tensor | None = None,
    dropout: float = 0.0,
    scale: float | None = None,
) -> Tensor:
    """softmax(scale query key^T + bias) value (equation 1).

    query: (..., N, D). key, value: (..., S, D). bias: added to the scores, (..., N or 1, S or 1), -inf for masked keys;
    each query needs an unmasked key. scale: None for 1 / sqrt(D). Returns (..., N, D). Modules keep this function in an
    attribute, which `densevit.layers.fast` replaces.
    """
    return F.scaled_dot_product_attention(query, key, value, attn_mask=bias, dropout_p=dropout, scale=scale)


class MultiHeadAttention(nn.Module):
    """Multi-head attention with separate query, key, value and output projections."""

    def __init__(self, width: int, num_heads: int, dropout: float = 0.0) -> None:
        super().__init__()
        if width % num_heads:
            raise ValueError(f"width is {width}; it must be a multiple of num_heads, {num_heads}.")
        self.num_heads, self.dropout, self.attention = num_heads, dropout, attention
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.output = nn.Linear(width, width)
        for layer in (self.query, self.key, self.value, self.output):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None = None) -> Tensor:
        """query: (B, N, C). key, value: (B, S, C). bias: broadcast to (B, heads, N, S). Returns (B, N, C)."""
        q, k, v = self._heads(self.query, query), self._heads(self.key, key), self._heads(self.value, value)
        if bias is not None:
            bias = bias.to(q.dtype)
        x = self.attention(q, k, v, bias, self.dropout if self.training else 0.0)
        return self.output(x.transpose(1, 2).reshape(-1, query.shape[-1])).view_as(query)

    def _heads(self, layer: nn.Linear, x: Tensor) -> Tensor:
        """(B, N, C) -> (B, heads, N, D)."""
        B, N, C = x.shape
        return layer(x.flatten(0, 1)).view(B, N, self.num_heads, C // self.num_heads).transpose(1, 2)


def xavier_initialise(ffn: FeedForward, *attentions: MultiHeadAttention) -> None:
    """Xavier initialisation of a transformer layer: of each attention, as of a fused projection (3C, C)."""
    for linear in (ffn.expand, ffn.contract):
        nn.init.xavier_uniform_(linear.weight)
    for module in attentions:
        for linear in (module.query, module.key, module.value):
            nn.init.xavier_uniform_(linear.weight, gain=0.5**0.5)
