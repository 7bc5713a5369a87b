"""The projector of LW-DETR (Chen et al. 2024), RF-DETR (Robinson et al. 2025) and GTR (arXiv 2609.26590)."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn

from densevit.interfaces import Neck
from densevit.layers.norms import LayerNorm2d
from densevit_necks.simple_pyramid import check_strides, deconvolutions, steps

Norm = Callable[[int], nn.Module]  # from channels


class Projector(Neck):
    """Each level is a C2f block on all features, resampled to its stride and concatenated, then a layer norm.

    A feature is resampled by deconvolutions of stride 2, each of which halves its channels, or by 3x3 convolutions of
    stride 2. Any number of features, of one stride as in the papers or of several. Sizes of levels: see
    `SimplePyramid`.

    width: channels of each level.
    pyramid_strides: ascending strides of the levels, each that of a feature multiplied or divided by powers of two:
        scale factors 2, 1 and 0.5 of the papers are strides 8, 16 and 32 of a ViT of patch size 16. None: the coarsest
        stride of the features that is at most 16.
    norm: the norm after convolutions: "layer" in RF-DETR, "batch" in LW-DETR, which also reduces more than 512 channels
        by a 1x1 convolution before a deconvolution.
    norm_eps: epsilon of layer norms after convolutions, 1e-6 as the authors trained; 1e-5 in transformers' RF-DETR.
    num_blocks: the bottlenecks of a C2f block.
    downsampling_activation: the activation after a convolution of stride 2: "relu" in RF-DETR, "silu" in GTR.
    """

    def __init__(
        self,
        channels: Sequence[int],
        strides: Sequence[int],
        width: int = 256,
        pyramid_strides: tuple[int, ...] | None = None,
        norm: Literal["layer", "batch"] = "layer",
        norm_eps: float = 1e-6,
        num_blocks: int = 3,
        downsampling_activation: Literal["relu", "silu"] = "relu",
    ) -> None:
        super().__init__(channels, strides)
        if width < 2 or width % 2:
            raise ValueError(f"width is {width}; expected an even number of channels.")
        if pyramid_strides is None:
            pyramid_strides = (max((stride for stride in strides if stride <= 16), default=min(strides)),)
        check_strides(pyramid_strides)
        norms: Norm = nn.BatchNorm2d if norm == "batch" else partial(LayerNorm2d, eps=norm_eps)
        activation = nn.SiLU if downsampling_activation == "silu" else nn.ReLU
        self.levels = nn.ModuleList(
            Level(channels, strides, stride, width, norms, num_blocks, activation) for stride in pyramid_strides
        )
        self.channels, self.strides = (width,) * len(pyramid_strides), tuple(pyramid_strides)

    def forward(self, features: list[Tensor], padding_mask: Tensor) -> list[Tensor]:
        """(B, C_i, H / s_i, W / s_i) each -> (B, width, H / t, W / t) per stride t, with sides rounded up."""
        return [level(features) for level in self.levels]


class Level(nn.Module):
    """A level of the projector, of stride `target`; the other arguments are the projector's."""

    def __init__(
        self,
        channels: Sequence[int],
        strides: Sequence[int],
        target: int,
        width: int,
        norm: Norm,
        num_blocks: int,
        activation: type[nn.Module],
    ) -> None:
        super().__init__()
        sampled = [_resampling(*feature, target, norm, activation) for feature in zip(channels, strides, strict=True)]
        self.samplings = nn.ModuleList(sampling for sampling, _ in sampled)
        self.fusion = C2f(sum(outputs for _, outputs in sampled), width, norm, num_blocks)
        self.norm = LayerNorm2d(width, eps=1e-6)

    def forward(self, features: list[Tensor]) -> Tensor:
        """Returns (B, width, H / target, W / target)."""
        sampled = [sampling(x) for sampling, x in zip(self.samplings, features, strict=True)]
        return self.norm(self.fusion(torch.cat(sampled, dim=1)))


class C2f(nn.Module):
    """YOLOv8's cross-stage partial block: half of the channels pass bottlenecks of two 3x3 convolutions, without
    shortcuts; all intermediate maps are concatenated."""

    def __init__(self, inputs: int, outputs: int, norm: Norm, num_blocks: int) -> None:
        super().__init__()
        width = outputs // 2
        self.enter = _conv_norm(inputs, 2 * width, 1, norm)
        self.blocks = nn.ModuleList(
            nn.Sequential(_conv_norm(width, width, 3, norm), _conv_norm(width, width, 3, norm))
            for _ in range(num_blocks)
        )
        self.leave = _conv_norm((2 + num_blocks) * width, outputs, 1, norm)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C', H, W)."""
        maps = [*self.enter(x).chunk(2, dim=1)]
        for block in self.blocks:
            maps.append(block(maps[-1]))
        return self.leave(torch.cat(maps, dim=1))


def _resampling(
    channels: int, stride: int, target: int, norm: Norm, activation: type[nn.Module]
) -> tuple[nn.Sequential, int]:
    """Layers from a feature to the stride `target`, and their number of output channels."""
    ups, downs = steps(channels, stride, target)
    parts: list[nn.Module] = []
    if norm is nn.BatchNorm2d and ups and channels > 512:
        parts.append(_conv_norm(channels, channels // 2, 1, norm, nn.ReLU()))
        channels //= 2
    parts += deconvolutions(channels, ups)
    parts += [_conv_norm(channels, channels, 3, norm, activation(), stride=2) for _ in range(downs)]
    return nn.Sequential(*parts), channels >> ups


def _conv_norm(
    inputs: int, outputs: int, kernel: int, norm: Norm, activation: nn.Module | None = None, stride: int = 1
) -> nn.Sequential:
    """A convolution without bias, a norm and an activation, by default SiLU."""
    convolution = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False)
    return nn.Sequential(convolution, norm(outputs), activation or nn.SiLU())
