"""The Segmenter head: a mask transformer over patches and class tokens."""

from collections.abc import Sequence
from fractions import Fraction

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from densevit.interfaces import Class, Outputs, Targets
from densevit.layers.attention import MultiHeadAttention
from densevit.layers.drop_path import DropPath
from densevit.layers.initial_weights import truncated_normal
from densevit.layers.mlp import FeedForward
from densevit.layers.positions import mask_on_grid
from densevit.set_prediction.limits import MAX_LAYERS, check_classes, check_counts
from densevit_heads.parts.class_map_layers import check_shares, resample
from densevit_heads.parts.class_maps import ClassMapHead


class Segmenter(ClassMapHead):
    """Semantic segmentation by a mask transformer (Strudel et al. 2021, section 3.2).

    Class tokens attend to the patches of the last feature map and back; the logit of a class at a patch is the cosine
    of their embeddings, after a layer norm over classes. The defaults are the paper's. Padding is masked in attention.

    width: None for the channels of the feature map. num_heads: None for one per 64 channels.
    """

    def __init__(
        self,
        channels: Sequence[int],
        strides: Sequence[int],
        classes: Sequence[Class],
        width: int | None = None,
        num_heads: int | None = None,
        num_layers: int = 2,
        dropout: float = 0.1,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__(channels, strides, classes)
        width = channels[-1] if width is None else width
        num_heads = max(width // 64, 1) if num_heads is None else num_heads
        check_counts({"width": width, "num_heads": num_heads})
        check_counts({"num_layers": num_layers}, 1, MAX_LAYERS)
        check_shares({"dropout": dropout, "drop_path": drop_path})
        check_classes(classes, "segmentation")
        K = len(classes)
        self.stride = strides[-1]
        self.project = nn.Linear(channels[-1], width)
        self.class_tokens = nn.Parameter(torch.zeros(K, width))
        rates = torch.linspace(0, drop_path, num_layers).tolist()
        self.layers = nn.ModuleList(Block(width, num_heads, dropout, rate) for rate in rates)
        self.norm = nn.LayerNorm(width)
        self.patch_projection = nn.Parameter(width**-0.5 * torch.randn(width, width))
        self.class_projection = nn.Parameter(width**-0.5 * torch.randn(width, width))
        self.mask_norm = nn.LayerNorm(K)
        self.apply(truncated_normal)
        nn.init.trunc_normal_(self.class_tokens, std=0.02)

    def forward(self, features: list[Tensor], padding_mask: Tensor, targets: list[Targets] | None = None) -> Outputs:
        """Returns `logits` (B, K, h, w) at the stride of the last feature map."""
        x = features[-1]
        B, _, H, W = x.shape
        K = len(self.class_tokens)
        padding = F.pad(mask_on_grid(padding_mask, (H, W)).flatten(1), (0, K))  # class tokens are no padding
        bias = torch.zeros_like(padding, dtype=x.dtype).masked_fill(padding, float("-inf"))[:, None, None]
        x = self.project(x.flatten(2).transpose(1, 2))  # (B, N, C)
        x = torch.cat([x, self.class_tokens.to(x.dtype).expand(B, -1, -1)], dim=1)  # (B, N + K, C)
        for layer in self.layers:
            x = layer(x, bias)
        patches, classes = self.norm(x).split([H * W, K], dim=1)
        patches = F.normalize(patches @ self.patch_projection.to(patches.dtype), dim=-1)
        classes = F.normalize(classes @ self.class_projection.to(classes.dtype), dim=-1)
        logits = self.mask_norm(patches @ classes.transpose(1, 2))  # (B, N, K)
        return {"logits": logits.transpose(1, 2).unflatten(2, (H, W))}

    def upsample(self, logits: Tensor, size: tuple[int, int]) -> Tensor:
        """Bilinear to pixels, then the top-left crop of this size."""
        return resample(logits, Fraction(self.stride), size)


class Block(nn.Module):
    """ViT's transformer block, with dropout (Dosovitskiy et al. 2021, equations 2 and 3)."""

    def __init__(self, width: int, num_heads: int, dropout: float, drop_path: float) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(width)
        self.attention = MultiHeadAttention(width, num_heads, dropout)
        self.ffn_norm = nn.LayerNorm(width)
        self.ffn = FeedForward(width, 4 * width, nn.GELU, dropout)
        self.dropout = nn.Dropout(dropout)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        """x: (B, N, C). bias: (B, 1, 1, N), added to attention scores. Returns (B, N, C)."""
        y = self.attention_norm(x)
        x = x + self.drop_path(self.dropout(self.attention(y, y, y, bias)))
        return x + self.drop_path(self.dropout(self.ffn(self.ffn_norm(x))))
