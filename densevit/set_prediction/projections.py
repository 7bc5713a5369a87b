"""Projections of the feature maps to one map: the coarsest map (DETR), or all maps fused at a finer stride
(RT-DETR)."""

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F

from densevit.layers.norms import LayerNorm2d


class CoarsestProjection(nn.Module):
    """Projects the coarsest feature map by a 1x1 convolution (DETR)."""

    def __init__(self, channels: Sequence[int], strides: Sequence[int], width: int) -> None:
        super().__init__()
        self.stride = strides[-1]
        self.project = nn.Conv2d(channels[-1], width, 1)

    def forward(self, features: list[Tensor]) -> Tensor:
        """Features -> (B, C, H, W)."""
        return self.project(features[-1])


class FusedProjection(nn.Module):
    """Fuses all feature maps of at least the given stride at that stride, for small objects.

    Each level is projected by a 1x1 convolution and a norm, coarse levels are upsampled, a 3x3 convolution mixes the
    sum, and `blocks` residual blocks follow (RT-DETR's cross-scale fusion, Zhao et al. 2024, section 4.2). Raises
    ValueError if all features are finer than `stride`.
    """

    def __init__(self, channels: Sequence[int], strides: Sequence[int], width: int, stride: int, blocks: int) -> None:
        super().__init__()
        self.levels = [i for i, s in enumerate(strides) if s >= stride]
        if not self.levels:
            raise ValueError(f"stride is {stride}, but the coarsest feature has stride {strides[-1]}.")
        self.stride = strides[self.levels[0]]
        parts = (nn.Sequential(nn.Conv2d(channels[i], width, 1), LayerNorm2d(width)) for i in self.levels)
        self.project = nn.ModuleList(parts)
        self.mix = nn.Sequential(nn.Conv2d(width, width, 3, padding=1), LayerNorm2d(width))
        self.blocks = nn.Sequential(*(ConvolutionBlock(width) for _ in range(blocks)))

    def forward(self, features: list[Tensor]) -> Tensor:
        """Features -> (B, C, H, W) at the finest fused level."""
        size = features[self.levels[0]].shape[-2:]
        maps = [project(features[i]) for i, project in zip(self.levels, self.project, strict=True)]
        total = maps[0]
        for x in maps[1:]:
            total = total + (x if x.shape[-2:] == size else F.interpolate(x, size=size, mode="bilinear"))
        return self.blocks(total + self.mix(total))


class ConvolutionBlock(nn.Module):
    """ResNet's basic block: two 3x3 convolutions with batch norm and a skip connection (He et al. 2016, figure 2)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.convolutions = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(inplace=True),
            nn.Conv2d(width, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        return F.relu(x + self.convolutions(x))
