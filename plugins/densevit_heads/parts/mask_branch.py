"""The mask branch of RF-DETR: a mask of each query, from the finest level (Robinson et al. 2025)."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from densevit.layers.mlp import FeedForward


class DepthwiseBlock(nn.Module):
    """A ConvNeXt block without its expansion (Liu et al. 2022): depthwise convolution, layer norm, pointwise layer."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(width, width, 3, padding=1, groups=width)
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.pointwise = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        added = F.gelu(self.pointwise(self.norm(self.depthwise(x).permute(0, 2, 3, 1))))
        return x + added.permute(0, 3, 1, 2)


class MaskBranch(nn.Module):
    """Per-pixel features, refined by a block for each decoder layer, and an embedding of each query.

    The logits of a mask are the products of the embedding and the per-pixel features. Both have C + 1 channels: the
    last channel is a bias in embeddings and 1 in features.
    """

    def __init__(self, width: int, num_blocks: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(DepthwiseBlock(width) for _ in range(num_blocks))
        self.pixel_project = nn.Conv2d(width, width, 1)
        self.query_norm = nn.LayerNorm(width)
        self.query_ffn = FeedForward(width, 4 * width)
        self.query_project = nn.Linear(width, width)
        self.bias = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor, size: tuple[int, int], queries: Tensor) -> tuple[Tensor, list[Tensor]]:
        """x: (B, C, H, W), resized to `size` first. queries: (1 + L, B, N, C) of the proposals and of L layers.

        Returns embeddings (1 + L, B, N, C + 1), and per-pixel features (B, C + 1, *size) of each layer; for proposals
        before the first block.
        """
        x = F.interpolate(x, size=size, mode="bilinear", align_corners=False)
        pixels = [self.pixel_project(x)]
        for block in self.blocks:
            x = block(x)
            pixels.append(self.pixel_project(x))
        queries = self.query_project(queries + self.query_ffn(self.query_norm(queries)))
        bias = self.bias.to(queries.dtype).expand(*queries.shape[:3], 1)
        return torch.cat([queries, bias], dim=-1), [
            F.pad(features, (0, 0, 0, 0, 0, 1), value=1.0) for features in pixels
        ]
