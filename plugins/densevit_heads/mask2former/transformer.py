"""The transformer decoder with masked attention (section 3.2.1)."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from densevit.layers.attention import MultiHeadAttention, xavier_initialise
from densevit.layers.mlp import FeedForward, Mlp
from densevit.set_prediction.queries import MaskQueries, QueryTable, mask_logits
from densevit_heads.mask2former.pixel_decoder import NUM_LEVELS, MaskTransformer, PyramidMemory


class MaskedDecoder(nn.Module):
    """Learned queries, decoder layers that attend to the three levels in turn, and the prediction heads.

    In each cross-attention a query attends to the foreground of the mask that it predicted before.
    """

    def __init__(self, num_queries: int, num_classes: int, options: MaskTransformer) -> None:
        super().__init__()
        width = options.width
        self.contents, self.positions = QueryTable(num_queries, width), QueryTable(num_queries, width)
        self.level_embedding = nn.Embedding(NUM_LEVELS, width)
        self.layers = nn.ModuleList(MaskedDecoderLayer(options) for _ in range(options.decoder_layers))
        self.norm = nn.LayerNorm(width)
        self.label_head = nn.Linear(width, num_classes + 1)
        self.mask_head = Mlp(width, width, width, 3)

    def forward(self, pyramid: PyramidMemory) -> MaskQueries:
        memories, keys = [], []
        for x, positions, embedding in zip(pyramid.levels, pyramid.positions, self.level_embedding.weight, strict=True):
            memories.append(x.flatten(2).transpose(1, 2) + embedding.to(x.dtype))  # (B, S, C)
            keys.append(memories[-1] + positions)
        with torch.no_grad():  # interpolation is linear: per-pixel embeddings of the levels give the masks there
            pixels = [
                F.interpolate(pyramid.mask_features.float(), size=x.shape[-2:], mode="bilinear", align_corners=False)
                for x in pyramid.levels
            ]
        B = pyramid.mask_features.shape[0]
        queries = self.contents.weight.expand(B, -1, -1)
        positions = self.positions.weight.expand(B, -1, -1)
        states = [queries]
        for i, layer in enumerate(self.layers):
            level = i % NUM_LEVELS
            with torch.no_grad():
                masks = mask_logits(self.mask_head.in_full_precision(self.norm(queries)), pixels[level])
                bias = attention_bias(masks, pyramid.paddings[level])
            queries = layer(queries, positions, keys[level], memories[level], bias)
            states.append(queries)
        normed = self.norm(torch.stack(states))  # (L, B, Q, C)
        return MaskQueries(self.label_head(normed), self.mask_head.in_full_precision(normed).float())


def attention_bias(masks: Tensor, padding: Tensor) -> Tensor:
    """0 on the foreground of a query's mask and -inf elsewhere; 0 on all of the image if it has no foreground.

    masks: logits (B, Q, H, W). padding: (B, H, W), always -inf. Returns (B, 1, Q, H*W).
    """
    outside = padding.flatten(1)[:, None]  # (B, 1, S)
    background = (masks.flatten(2) < 0) | outside
    background = (background & ~background.all(-1, keepdim=True)) | outside
    return torch.zeros_like(background, dtype=masks.dtype).masked_fill(background, float("-inf"))[:, None]


class MaskedDecoderLayer(nn.Module):
    """Masked cross-attention, then self-attention among queries, then a feed-forward network (FFN); post-norm."""

    def __init__(self, options: MaskTransformer) -> None:
        super().__init__()
        width, num_heads, dropout = options.width, options.num_heads, options.dropout
        self.cross_attention = MultiHeadAttention(width, num_heads, dropout)
        self.cross_attention_norm = nn.LayerNorm(width)
        self.self_attention = MultiHeadAttention(width, num_heads, dropout)
        self.self_attention_norm = nn.LayerNorm(width)
        self.ffn = FeedForward(width, options.feedforward, nn.ReLU, dropout)
        self.ffn_norm = nn.LayerNorm(width)
        self.dropout = nn.Dropout(dropout)
        xavier_initialise(self.ffn, self.cross_attention, self.self_attention)

    def forward(self, queries: Tensor, positions: Tensor, keys: Tensor, memory: Tensor, bias: Tensor) -> Tensor:
        """queries, positions: (B, Q, C). keys, memory: (B, S, C), with and without positions. bias: (B, 1, Q, S)."""
        attended = self.cross_attention(queries + positions, keys, memory, bias)
        queries = self.cross_attention_norm(queries + self.dropout(attended))
        with_pos = queries + positions
        attended = self.self_attention(with_pos, with_pos, queries)
        queries = self.self_attention_norm(queries + self.dropout(attended))
        return self.ffn_norm(queries + self.dropout(self.ffn(queries)))
