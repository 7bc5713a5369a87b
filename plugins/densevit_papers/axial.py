"""Position-sensitive axial attention (Wang et al. 2020, "Axial-DeepLab", section 3)."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from densevit.layers.tracing import is_exporting


@dataclass(frozen=True)
class Axial:
    """The option `axial` of `attention_resnet`; the defaults are Axial-ResNet's on ImageNet.

    span: cells of a row or column that a cell attends to, an odd number such as the paper's 65; None: the whole row or
        column of maps of `image_size` and smaller, and as many cells on each side on larger maps.
    image_size: the side of training images in pixels, which sizes the position tables if span is None.
    stages: the stages, from 1, whose 3x3 convolutions become a layer along columns and a layer along rows.
    """

    num_heads: int = 8
    span: int | None = None
    image_size: int = 224
    stages: tuple[int, ...] = (1, 2, 3, 4)

    def __post_init__(self) -> None:
        if self.num_heads < 1 or self.image_size < 1:
            raise ValueError(f"num_heads is {self.num_heads} and image_size {self.image_size}; both must be 1 or more.")
        if self.span is not None and (self.span < 1 or self.span % 2 == 0):
            raise ValueError(f"span is {self.span}; it must be odd and at least 1, such as 65, or null.")
        if not self.stages or not set(self.stages) <= {1, 2, 3, 4}:
            raise ValueError(f"stages is {self.stages}; expected numbers from 1 to 4.")

    def bottleneck(self, stage: int) -> int:
        """Channels of the bottleneck, per 256 channels of its output."""
        return 128 if stage in self.stages else 64

    def layer(self, channels: int, stride: int, map_stride: int) -> nn.Module:
        """map_stride: the stride of the layer's input."""
        reach = -(-self.image_size // map_stride) - 1 if self.span is None else self.span // 2
        layers = [AxialAttention(channels, self.num_heads, reach, axis) for axis in ("height", "width")]
        pooling = [nn.AvgPool2d(2, stride, ceil_mode=True, count_include_pad=False)] if stride > 1 else []
        return nn.Sequential(*layers, *pooling)

    def stem_layers(self, channels: int) -> None:
        """None: ResNet's first convolution and max pooling."""


class AxialAttention(nn.Module):
    """Multi-head attention of each cell to the cells of its column or row (equation 4).

    Queries, keys and values have position embeddings of the offset, shared by all heads. Batch norms follow the
    projection, the three terms of the scores, and the two terms of the output, as in the authors' code.

    reach: the largest offset; cells further away are not attended to. axis: "height" or "width".
    """

    def __init__(self, channels: int, num_heads: int = 8, reach: int = 55, axis: str = "height") -> None:
        super().__init__()
        if channels % (2 * num_heads):
            raise ValueError(
                f"axial: {channels} channels are not a multiple of 2 x num_heads, {2 * num_heads}; queries and keys "
                "have half of a head's channels. Change width or axial.num_heads."
            )
        self.num_heads, self.reach, self.axis = num_heads, reach, axis
        self.qkv = nn.Conv2d(channels, 2 * channels, 1, bias=False)
        self.qkv_norm = nn.BatchNorm2d(2 * channels)
        self.similarity_norm = nn.BatchNorm2d(3 * num_heads)
        self.output_norm = nn.BatchNorm2d(2 * channels)
        self.relative = nn.Parameter(torch.empty(2 * channels // num_heads, 2 * reach + 1))
        self.initialise()

    def initialise(self) -> None:
        """Initial weights of the authors' code."""
        nn.init.normal_(self.qkv.weight, std=math.sqrt(1 / self.qkv.in_channels))
        nn.init.normal_(self.relative, std=math.sqrt(2 / len(self.relative)))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        if self.axis == "height":
            return self._along_rows(x.transpose(2, 3)).transpose(2, 3)
        return self._along_rows(x)

    def _along_rows(self, x: Tensor) -> Tensor:
        B, C, H, W = x.shape
        D = C // self.num_heads
        qkv = self.qkv_norm(self.qkv(x)).transpose(1, 2).reshape(B * H, self.num_heads, 2 * D, W)
        query, key, value = qkv.split([D // 2, D // 2, D], dim=2)  # (B * H, heads, D / 2 or D, W)
        offsets = torch.arange(W, device=x.device)
        offsets = offsets.unsqueeze(1) - offsets  # (W, W), of the first from the second
        table = self.relative[:, offsets.clamp(-self.reach, self.reach) + self.reach]  # (2 D, W, W)
        query_table, key_table, value_table = table.to(qkv.dtype).split([D // 2, D // 2, D])
        terms = (
            torch.einsum("bgci,bgcj->bgij", query, key),
            torch.einsum("bgci,cij->bgij", query, query_table),
            torch.einsum("bgcj,cji->bgij", key, key_table),
        )
        terms = self.similarity_norm(torch.cat(terms, dim=1))  # (B * H, 3 heads, W, W)
        scores = terms.unflatten(1, (3, -1)).sum(1)
        if is_exporting() or self.reach + 1 < W:
            scores = scores.masked_fill(offsets.abs() > self.reach, -torch.inf)
        weights = scores.softmax(-1).to(value.dtype)
        content = torch.einsum("bgij,bgcj->bgci", weights, value)
        position = torch.einsum("bgij,cij->bgci", weights, value_table)
        y = torch.stack([content, position], dim=3).view(B, H, 2 * C, W).transpose(1, 2)
        return self.output_norm(y).unflatten(1, (C, 2)).sum(2)
