"""Pyramid pooling (PSPNet, Zhao et al. 2017, section 3.2) of each image's own cells in a padded batch.

Adaptive average pooling and bilinear upsampling are separable: both are products with a matrix per axis. The matrices
are computed from the size of each image, so padding is never pooled, and exported files take any size.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from densevit_heads.parts.class_map_layers import Norm, convolution


class PyramidPooling(nn.Module):
    """Averages over s x s regions of an image for each scale s, a 1x1 convolution, and bilinear upsampling."""

    def __init__(self, channels: int, width: int, scales: Sequence[int], norm: Norm) -> None:
        super().__init__()
        self.scales = tuple(scales)
        self.convolutions = nn.ModuleList(convolution(channels, width, 1, norm) for _ in scales)

    def forward(self, x: Tensor, heights: Tensor, widths: Tensor) -> list[Tensor]:
        """x: (B, C, H, W). heights, widths: (B,) int64, the cells of each image. Returns (B, width, H, W) per scale."""
        H, W = x.shape[-2:]
        maps = []
        for scale, layer in zip(self.scales, self.convolutions, strict=True):
            rows, columns = (averages(n, scale, N).to(x.dtype)[:, None] for n, N in ((heights, H), (widths, W)))
            pooled = layer(rows @ x @ columns.mT)  # (B, width, s, s)
            rows, columns = (interpolation(n, scale, N).to(x.dtype)[:, None] for n, N in ((heights, H), (widths, W)))
            maps.append(rows @ pooled @ columns.mT)
        return maps


def averages(lengths: Tensor, scale: int, N: int) -> Tensor:
    """The matrix of adaptive average pooling of an axis of N cells to `scale` regions, (B, scale, N).

    lengths: (B,) int64, the number of cells that are pooled. Regions overlap if it is not a multiple of `scale`.
    """
    region = torch.arange(scale, device=lengths.device)
    starts = lengths[:, None] * region // scale  # (B, scale)
    ends = (lengths[:, None] * (region + 1) + scale - 1) // scale
    cells = torch.arange(N, device=lengths.device)
    inside = (cells >= starts[..., None]) & (cells < ends[..., None])
    return inside / (ends - starts)[..., None]


def interpolation(lengths: Tensor, scale: int, N: int) -> Tensor:
    """The matrix of bilinear upsampling (`align_corners=False`) of `scale` regions to `lengths` cells, (B, N, scale).

    Cells beyond an image's length repeat the last region.
    """
    cells, region = torch.arange(N, device=lengths.device), torch.arange(scale, device=lengths.device)
    position = ((cells + 0.5) * (scale / lengths[:, None]) - 0.5).clamp(0, scale - 1)  # (B, N)
    return (1 - (position[..., None] - region).abs()).clamp(min=0)
