"""The pixel decoder: deformable attention over three levels, and a fine map by lateral connections (section 3.2.2)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from densevit.layers.norms import GroupNorm
from densevit.layers.positions import mask_on_grid, sine_map
from densevit.set_prediction.deformable_transformer import DeformableEncoderLayer, encode
from densevit.set_prediction.levels import NORM_GROUPS, Levels, without_padding
from densevit.set_prediction.limits import MAX_LAYERS, check_counts
from densevit.set_prediction.projections import FusedProjection
from densevit.set_prediction.transformer import Transformer

NUM_LEVELS = 3
NUM_POINTS = 4  # sampling points of each attention head and level
MIN_STRIDE = 8  # of the levels; finer features have lateral connections


@dataclass(frozen=True)
class MaskTransformer:
    """The option `transformer`: the decoder.

    width: channels of tokens, queries and per-pixel embeddings; `num_heads` and `dropout` are also the pixel decoder's.
    feedforward: width of the hidden layer of feed-forward networks.
    """

    width: int = 256
    num_heads: int = 8
    decoder_layers: int = 9
    feedforward: int = 2048
    dropout: float = 0.0

    def __post_init__(self) -> None:
        if self.width % NORM_GROUPS or self.width < NORM_GROUPS:
            raise ValueError(
                f"width is {self.width}; it must be a multiple of {NORM_GROUPS}, the groups of the group norm."
            )
        # which raises for other values out of range
        Transformer(self.width, self.num_heads, 0, self.decoder_layers, self.feedforward, self.dropout)


@dataclass(frozen=True)
class PixelDecoderOptions:
    """The option `pixel_decoder`.

    layers, feedforward: the number of layers with deformable attention, and the width of their feed-forward networks.
    fusion_blocks: number of residual blocks after a fusion of all features of stride 8 and above to the finest level
    (`FusedProjection`); 0: no fusion. Helps short training from random weights. mask_padding: sets features of padding
    to 0, excludes padding from attention and from positions, here and in the transformer decoder. False: padding is
    part of the image, as in the authors' code, for their weights.
    """

    layers: int = 6
    feedforward: int = 1024
    fusion_blocks: int = 0
    mask_padding: bool = True

    def __post_init__(self) -> None:
        check_counts({"layers": self.layers}, 1, MAX_LAYERS)
        check_counts({"feedforward": self.feedforward})
        check_counts({"fusion_blocks": self.fusion_blocks}, 0, MAX_LAYERS)


class PyramidMemory(NamedTuple):
    """The memory of the transformer decoder.

    levels: three maps (B, C, H, W), coarse to fine. positions: the sine encoding of each, (B, H * W, C). paddings: (B,
    H, W) bool of each. mask_features: (B, C, h, w), the per-pixel embeddings.
    """

    levels: list[Tensor]
    positions: list[Tensor]
    paddings: list[Tensor]
    mask_features: Tensor


class PixelDecoder(nn.Module):
    """Refines features by deformable attention and upsamples them to the per-pixel embeddings.

    The three levels are the coarsest features of stride 8 and above, one for each stride; of several features of one
    stride the deepest. If there are fewer, coarser levels follow by 3x3 convolutions of stride 2. Finer features are
    added to the upsampled finest level, one for each stride. Order: coarse to fine.

    With `fusion_blocks` the finest level is the fusion of all features of its stride and above, instead of the
    projection of one feature. stride: the stride of the per-pixel embeddings and of the finest feature.
    """

    def __init__(
        self,
        channels: Sequence[int],
        strides: Sequence[int],
        transformer: MaskTransformer,
        options: PixelDecoderOptions,
    ) -> None:
        super().__init__()
        width = transformer.width
        deepest = list({stride: index for index, stride in enumerate(strides)}.values())  # fine to coarse
        used = [index for index in deepest if strides[index] >= MIN_STRIDE][-NUM_LEVELS:] or deepest[-1:]
        self.features = used[::-1]
        self.lateral_features = [index for index in deepest if strides[index] < strides[used[0]]][::-1]
        self.stride = strides[(self.lateral_features or self.features)[-1]]

        self.mask_padding = options.mask_padding
        self.extra = NUM_LEVELS - len(used)  # levels coarser than all features
        inputs = [channels[self.features[0]], *[width] * (self.extra - 1)][: self.extra]
        convolutions = [nn.Conv2d(x, width, 3, stride=2, padding=1) for x in inputs][::-1]
        convolutions += [nn.Conv2d(channels[index], width, 1) for index in self.features]
        self.fusion: FusedProjection | None = None
        if options.fusion_blocks:
            self.fusion = FusedProjection(channels, strides, width, strides[used[0]], options.fusion_blocks)
            convolutions.pop()
        self.projections = nn.ModuleList(nn.Sequential(x, GroupNorm(NORM_GROUPS, width)) for x in convolutions)
        self.level_embedding = nn.Parameter(torch.randn(NUM_LEVELS, width))
        layer = Transformer(
            width, transformer.num_heads, options.layers, feedforward=options.feedforward, dropout=transformer.dropout
        )
        self.encoder = nn.ModuleList(
            DeformableEncoderLayer(layer, NUM_LEVELS, NUM_POINTS) for _ in range(options.layers)
        )
        lateral = [nn.Conv2d(channels[index], width, 1, bias=False) for index in self.lateral_features]
        output = [nn.Conv2d(width, width, 3, padding=1, bias=False) for _ in lateral]
        self.laterals = nn.ModuleList(nn.Sequential(x, GroupNorm(NORM_GROUPS, width)) for x in lateral)
        self.outputs = nn.ModuleList(nn.Sequential(x, GroupNorm(NORM_GROUPS, width), nn.ReLU()) for x in output)
        self.mask_features = nn.Conv2d(width, width, 1)
        for convolution in convolutions:
            nn.init.xavier_uniform_(convolution.weight)
            nn.init.zeros_(convolution.bias)  # type: ignore[arg-type]
        for convolution in (*lateral, *output, self.mask_features):
            nn.init.kaiming_uniform_(convolution.weight, a=1)
        nn.init.zeros_(self.mask_features.bias)  # type: ignore[arg-type]

    def forward(self, features: list[Tensor], padding_mask: Tensor) -> PyramidMemory:
        """padding_mask: (B, H, W) of the batch.

        With `mask_padding`, features of padding are set to 0, and attention and positions exclude padding.
        """
        if not self.mask_padding:
            padding_mask = torch.zeros_like(padding_mask)
        projected = self._projected([without_padding(x, padding_mask) for x in features])
        paddings = [mask_on_grid(padding_mask, (x.shape[-2], x.shape[-1])) for x in projected]
        positions = [
            sine_map(padding, x.shape[1]).to(x.dtype).flatten(1, 2)
            for x, padding in zip(projected, paddings, strict=True)
        ]
        embeddings = self.level_embedding.to(projected[0].dtype)
        levels = Levels.of(projected, paddings, [x + row for x, row in zip(positions, embeddings, strict=True)])
        memory = encode(levels, self.encoder)
        areas = [height * width for height, width in levels.shapes]
        maps = [
            x.transpose(1, 2).unflatten(2, shape)
            for x, shape in zip(memory.split(areas, dim=1), levels.shapes, strict=True)
        ]
        fine = maps[-1]
        for index, lateral, output in zip(self.lateral_features, self.laterals, self.outputs, strict=True):
            x = lateral(without_padding(features[index], padding_mask))
            upsampled = F.interpolate(fine, size=x.shape[-2:], mode="bilinear", align_corners=False)
            fine = output(x + upsampled.to(x.dtype))
        return PyramidMemory(maps, positions, paddings, self.mask_features(fine))

    def _projected(self, features: list[Tensor]) -> list[Tensor]:
        """The maps (B, C, H, W) of all levels, coarse to fine."""
        projections, used = self.projections[self.extra :], [features[index] for index in self.features]
        maps = [project(x) for project, x in zip(projections, used, strict=False)]
        if self.fusion is not None:
            maps.append(self.fusion(features))
        x = used[0]
        for project in reversed(self.projections[: self.extra]):
            x = project(x)
            maps.insert(0, x)
        return maps
