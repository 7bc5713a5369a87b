"""Stems of a plain vision transformer, from image to tokens: patches, convolutions or a ResNet."""

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from densevit.layers.stem import conv_stem
from densevit_backbones.vit.variants import HYBRID_BLOCKS

StemType = Literal["patch", "conv", "resnet"]
WeightStandardization = Literal["variance", "std"]
"""How a filter w is standardised: (w - mean) / sqrt(variance + 1e-8), or (w - mean) / (std + 1e-5)."""
Embedded = tuple[list[Tensor], Tensor]
"""Features of finer strides, (B, C, H, W) each, and the tokens (B, H, W, C); all maps are ceil(size / stride)."""


class Stem(nn.Module):
    """From images to tokens: forward returns `Embedded`, whose features have these channels and strides."""

    channels: tuple[int, ...] = ()
    strides: tuple[int, ...] = ()

    def parameter_depths(self) -> list[list[nn.Parameter]]:
        return [list(self.parameters())]


def create_stem(
    stem: StemType, width: int, patch_size: int, weight_standardization: WeightStandardization, in_channels: int
) -> Stem:
    if stem == "resnet":
        return ResNetStem(width, weight_standardization, in_channels)
    return (ConvStem if stem == "conv" else PatchStem)(width, patch_size, in_channels)


class PatchStem(Stem):
    """A linear projection of square patches (ViT, equation 1).

    An image is padded with zeros at the right and the bottom to a multiple of the size of a patch.
    """

    def __init__(self, width: int, size: int, in_channels: int) -> None:
        super().__init__()
        self.size = size
        self.projection = nn.Conv2d(in_channels, width, size, stride=size)

    def forward(self, images: Tensor) -> Embedded:
        size = self.size
        images = F.pad(images, (0, -images.shape[3] % size, 0, -images.shape[2] % size))
        x = images.unflatten(3, (-1, size)).unflatten(2, (-1, size)).permute(0, 2, 4, 1, 3, 5)  # (B, H, W, C, P, P)
        return [], F.linear(x.flatten(3), self.projection.weight.flatten(1), self.projection.bias)


class ConvStem(Stem):
    """3x3 convolutions with batch norm (Xiao et al. 2021, section 4)."""

    def __init__(self, width: int, stride: int, in_channels: int) -> None:
        super().__init__()
        self.stride = stride
        self.convolutions = conv_stem(width, stride, in_channels)

    def forward(self, images: Tensor) -> Embedded:
        return [], self.convolutions(_padded(images, self.stride)).permute(0, 2, 3, 1)


class ResNetStem(Stem):
    """The first three stages of a ResNet-50 and a projection (ViT, section 3.1, "Hybrid Architecture").

    As in the published R50 + ViT-B/16: nine blocks in the third stage, weights of convolutions standardised (Qiao et
    al. 2019), group norm in place of batch norm, and TensorFlow's "same" padding, which pads more at the right and
    bottom than at the left and top.

    weight_standardization: the formula for all convolutions but the projection (`WeightStandardization`).
    """

    channels = (256, 512)
    strides = (4, 8)

    def __init__(
        self, width: int, weight_standardization: WeightStandardization = "variance", in_channels: int = 3
    ) -> None:
        super().__init__()
        by = weight_standardization
        self.conv = StandardizedConv2d(in_channels, 64, 7, stride=2, by=by)
        self.norm = nn.GroupNorm(32, 64)
        self.stages = nn.ModuleList()
        inputs = 64
        for i, count in enumerate(HYBRID_BLOCKS):
            outputs, stride = 256 * 2**i, 1 if i == 0 else 2
            blocks = [_Bottleneck(inputs, outputs, stride, by)]
            blocks += [_Bottleneck(outputs, outputs, 1, by) for _ in range(count - 1)]
            self.stages.append(nn.Sequential(*blocks))
            inputs = outputs
        self.projection = nn.Conv2d(inputs, width, 1)

    def forward(self, images: Tensor) -> Embedded:
        H, W = images.shape[2:]
        x = F.relu(self.norm(self.conv(_padded(images, 16))))
        x = F.max_pool2d(
            F.pad(x, (0, 1, 0, 1)), 3, stride=2
        )  # inputs are non-negative, so zeros do not change the maximum
        features = []
        for stage in self.stages:
            x = stage(x)
            features.append(x)
        early = [x[:, :, : -(-H // s), : -(-W // s)] for x, s in zip(features[:2], self.strides, strict=True)]
        return early, self.projection(x).permute(0, 2, 3, 1)

    def parameter_depths(self) -> list[list[nn.Parameter]]:
        """Groups: the root, each block and the projection."""
        blocks = [list(block.parameters()) for stage in self.stages for block in stage.children()]
        root = [*self.conv.parameters(), *self.norm.parameters()]
        return [root, *blocks, list(self.projection.parameters())]


class StandardizedConv2d(nn.Conv2d):
    """A convolution without bias whose filters are standardised to mean 0 and variance 1 (Qiao et al. 2019).

    For maps whose sides are multiples of the stride. "Same" padding: kernel - stride in all, an odd row or column at
    the bottom or right.

    by: where epsilon is added, which matters for filters of small variance; see `WeightStandardization`.
    """

    def __init__(
        self, inputs: int, outputs: int, kernel: int, stride: int = 1, by: WeightStandardization = "variance"
    ) -> None:
        super().__init__(inputs, outputs, kernel, stride=stride, bias=False)
        self.by = by
        padding = max(kernel - stride, 0)
        self.before, self.behind = padding // 2, padding - padding // 2

    def forward(self, x: Tensor) -> Tensor:
        weight = self._standardized()
        if self.before == self.behind:
            return F.conv2d(x, weight, None, self.stride, self.before)
        return F.conv2d(F.pad(x, (self.before, self.behind) * 2), weight, None, self.stride)

    def _standardized(self) -> Tensor:
        """The weight (O, I, H, W), each of its O filters standardised."""
        if self.by == "variance":
            return F.layer_norm(self.weight, self.weight.shape[1:], eps=1e-8)
        std, mean = torch.std_mean(self.weight, dim=(1, 2, 3), keepdim=True, correction=0)  # (O, 1, 1, 1)
        return (self.weight - mean) / (std + 1e-5)


class _Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions; the stride is in the second."""

    def __init__(self, inputs: int, outputs: int, stride: int, by: WeightStandardization) -> None:
        super().__init__()
        width = outputs // 4
        self.conv1, self.norm1 = StandardizedConv2d(inputs, width, 1, by=by), nn.GroupNorm(32, width)
        self.conv2, self.norm2 = StandardizedConv2d(width, width, 3, stride, by), nn.GroupNorm(32, width)
        self.conv3, self.norm3 = StandardizedConv2d(width, outputs, 1, by=by), nn.GroupNorm(32, outputs)
        self.downsample: nn.Module | None = None
        if inputs != outputs:
            shortcut = StandardizedConv2d(inputs, outputs, 1, stride, by)
            self.downsample = nn.Sequential(shortcut, nn.GroupNorm(32, outputs))

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        x = F.relu(self.norm1(self.conv1(x)))
        x = F.relu(self.norm2(self.conv2(x)))
        return F.relu(self.norm3(self.conv3(x)) + shortcut)


def _padded(images: Tensor, stride: int) -> Tensor:
    """Pads images with zeros at the right and the bottom to multiples of the stride; in channels-last memory."""
    H, W = images.shape[2:]
    return F.pad(images, (0, -W % stride, 0, -H % stride)).contiguous(memory_format=torch.channels_last)
