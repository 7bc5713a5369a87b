"""The hybrid encoder: attention on the coarsest map, then cross-scale fusion by convolutions (RT-DETR, section 4.2)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from densevit.layers.norms import BatchNorm2d
from densevit.layers.positions import mask_on_grid, sine_grid_2d
from densevit.layers.table_cache import cached_table
from densevit.set_prediction.transformer import EncoderLayer, Transformer


@dataclass(frozen=True)
class HybridEncoderOptions:
    """The option `encoder` of a head; the defaults are RT-DETR-R50's.

    width: channels of all maps, a multiple of 4. feedforward: width of the hidden layer of the attention's feed-forward
    networks. expansion: width inside the fusion blocks, relative to `width`.
    """

    width: int = 256
    feedforward: int = 1024
    expansion: float = 1.0

    def __post_init__(self) -> None:
        if int(self.width * self.expansion) < 1:
            raise ValueError(
                f"encoder.expansion is {self.expansion:g}; expected at least one of {self.width} channels."
            )


class EncodedMaps(NamedTuple):
    """Maps of one width, (B, width, H, W) each, fine to coarse, and their padding masks, (B, H, W) each.

    attended: the coarsest map after AIFI, before the fusion: F5 of RT-DETR, 0 in the padding.
    """

    maps: list[Tensor]
    paddings: list[Tensor]
    attended: Tensor


class HybridEncoder(nn.Module):
    """Maps of one width at doubling strides, from features of a backbone (Zhao et al. 2024, section 4.2).

    Each of the coarsest features of stride `min_stride` and above, one for each stride and of several the deepest, is
    projected by a 1x1 convolution with batch norm. Levels coarser than all features follow by 3x3 convolutions of
    stride 2. Attention-based intra-scale feature interaction (AIFI) runs on the coarsest map, then cross-scale feature
    fusion (CCFM): a top-down path (FPN) and a bottom-up path (PAN), each of which joins two maps by concatenation and
    a fusion block.

    transformer: `encoder_layers`, `num_heads` and `dropout` of AIFI.
    lateral, downsample: make a module of `width` to `width` channels, before upsampling in the top-down path (same
    size), and in the bottom-up path (stride 2, to ceil(H / 2)). fuse: makes a fusion block, of two maps' channels
    (2 * width) to `width`.

    width, stride: the channels of all maps, and the coarsest map's stride.

    Features of padding are set to 0 before each fusion block and downsampling, and attention ignores padding. Inside a
    fusion block, convolutions near the border of the image still read it. The authors' models have no padding.
    """

    def __init__(
        self,
        channels: Sequence[int],
        strides: Sequence[int],
        options: HybridEncoderOptions,
        transformer: Transformer,
        num_levels: int,
        min_stride: int,
        lateral: Callable[[int], nn.Module],
        fuse: Callable[[int], nn.Module],
        downsample: Callable[[int], nn.Module],
    ) -> None:
        super().__init__()
        self.width = width = options.width
        self.features = _features(strides, num_levels, min_stride)
        inputs = [channels[index] for index in self.features]
        self.stride = strides[self.features[-1]] * 2 ** (num_levels - len(inputs))
        projections = [_projection(count, width, 1) for count in inputs]
        coarser = [inputs[-1], *[width] * (num_levels - len(inputs))][: num_levels - len(inputs)]
        self.projections = nn.ModuleList(projections + [_projection(count, width, 3) for count in coarser])
        layer = replace(transformer, width=width, feedforward=options.feedforward)
        self.attention = nn.ModuleList(
            EncoderLayer(layer, activation=nn.GELU) for _ in range(transformer.encoder_layers)
        )
        steps = range(num_levels - 1)
        self.laterals = nn.ModuleList(lateral(width) for _ in steps)  # coarse to fine, as `top_down`
        self.top_down = nn.ModuleList(fuse(width) for _ in steps)
        self.downsamples = nn.ModuleList(downsample(width) for _ in steps)
        self.bottom_up = nn.ModuleList(fuse(width) for _ in steps)

    def forward(self, features: list[Tensor], padding_mask: Tensor) -> EncodedMaps:
        """padding_mask: (B, H, W) of the batch."""
        used = [features[index] for index in self.features]
        maps = [project(x) for project, x in zip(self.projections, used, strict=False)]
        x = used[-1]
        for project in self.projections[len(used) :]:
            x = project(x)
            maps.append(x)
        paddings = [mask_on_grid(padding_mask, (x.shape[-2], x.shape[-1])) for x in maps]
        inside = [(~padding[:, None]).to(x.dtype) for padding in paddings]  # a product is faster than masked_fill
        maps[-1] = self._aifi(maps[-1], paddings[-1])
        maps = [x * ones for x, ones in zip(maps, inside, strict=True)]

        x = attended = maps[-1]
        inner = []  # coarse to fine
        for i, (lateral, fuse) in enumerate(zip(self.laterals, self.top_down, strict=True)):
            finer = maps[-2 - i]
            inner.append(lateral(x) * inside[-1 - i])
            upsampled = F.interpolate(inner[-1], size=finer.shape[-2:], mode="nearest")
            x = fuse(torch.cat([upsampled, finer], dim=1)) * inside[-2 - i]
        outputs = [x]
        for i, (downsample, fuse) in enumerate(zip(self.downsamples, self.bottom_up, strict=True)):
            downsampled = downsample(x) * inside[i + 1]
            x = fuse(torch.cat([downsampled, inner[-1 - i]], dim=1)) * inside[i + 1]
            outputs.append(x)
        return EncodedMaps(outputs, paddings, attended)

    def _aifi(self, x: Tensor, padding: Tensor) -> Tensor:
        """AIFI. x: (B, C, H, W), the coarsest map. padding: (B, H, W)."""
        size = (x.shape[-2], x.shape[-1])
        positions = cached_table(aifi_positions, *size, x.shape[1], x.device).to(x.dtype).flatten(0, 1)  # (H * W, C)
        padding = padding.flatten(1)
        bias = torch.zeros_like(padding, dtype=x.dtype).masked_fill(padding, float("-inf"))[:, None, None]
        tokens = x.flatten(2).transpose(1, 2)  # (B, H * W, C)
        for layer in self.attention:
            tokens = layer(tokens, positions, bias)
        return tokens.transpose(1, 2).unflatten(2, size)


def aifi_positions(height: int, width: int, channels: int, device: torch.device) -> Tensor:
    """The sine encoding of AIFI: sines and cosines of the row, then of the column. Returns (H, W, channels), float32.

    The authors' code flattens the grid by columns and the map by rows, which is equal for a square map, the only one
    they train on. Here, as in transformers 5, positions follow the map's rows and columns at any size.
    """
    return sine_grid_2d(width, height, channels, device).transpose(0, 1)


def _features(strides: Sequence[int], num_levels: int, min_stride: int) -> list[int]:
    """Indices of the features to use, fine to coarse. Raises ValueError unless their strides double."""
    deepest = {stride: index for index, stride in enumerate(strides) if stride >= min_stride}
    if not deepest:
        raise ValueError(f"min_stride is {min_stride}, but the coarsest feature has stride {max(strides)}.")
    used = list(deepest.values())[-num_levels:]
    used_strides = [strides[index] for index in used]
    if any(coarse != 2 * fine for fine, coarse in pairwise(used_strides)):
        raise ValueError(
            f"The features of stride {min_stride} and above have strides {used_strides}; the encoder needs strides "
            "that double. Fix: set min_stride so that those that remain do, or take another backbone."
        )
    return used


def _projection(inputs: int, width: int, kernel: int) -> nn.Sequential:
    """A 1x1 convolution, or a 3x3 one of stride 2, with batch norm."""
    stride, padding = (2, 1) if kernel == 3 else (1, 0)
    return nn.Sequential(nn.Conv2d(inputs, width, kernel, stride, padding, bias=False), BatchNorm2d(width))
