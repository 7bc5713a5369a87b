"""Stand-alone self-attention (Ramachandran et al. 2019, "Stand-Alone Self-Attention in Vision Models")."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from densevit.layers.attention import attention
from densevit.layers.tracing import is_exporting
from densevit.layers.windows import window_partition, window_reverse
from densevit.set_prediction.limits import check_counts
from densevit_papers.sliding_windows import check_kernel_size, outside, sliding_windows

_BLOCK = 4  # cells: of the stem's attention and of its pooling
_STEM_HEADS, _MIXTURES = 4, 4


@dataclass(frozen=True)
class StandAlone:
    """The option `sasa` of `attention_resnet`; the defaults are the paper's.

    kernel_size: side of the window of cells that each cell attends to.
    stem: "convolution", ResNet's; or "attention" in blocks of 4 x 4 pixels (section 3.2).
    stages: the stages, from 1, whose 3x3 convolutions become attention. The paper's best models keep convolutions in
        the first two stages (section 4.3).
    """

    kernel_size: int = 7
    num_heads: int = 8
    stem: Literal["convolution", "attention"] = "convolution"
    stages: tuple[int, ...] = (1, 2, 3, 4)

    def __post_init__(self) -> None:
        check_kernel_size(self.kernel_size)
        check_counts({"num_heads": self.num_heads})
        if not self.stages or not set(self.stages) <= {1, 2, 3, 4}:
            raise ValueError(f"stages is {self.stages}; expected numbers from 1 to 4.")

    def bottleneck(self, stage: int) -> int:
        """Channels of the bottleneck, per 256 channels of its output."""
        return 64

    def layer(self, channels: int, stride: int, map_stride: int) -> nn.Module:
        layer = LocalAttention(channels, self.kernel_size, self.num_heads)
        if stride == 1:
            return layer
        # "A 2 x 2 average pooling with stride 2 follows the attention layer" (section 3.1)
        return nn.Sequential(layer, nn.AvgPool2d(2, stride, ceil_mode=True, count_include_pad=False))

    def stem_layers(self, channels: int) -> nn.Sequential | None:
        """The layers in place of ResNet's first convolution and max pooling; None: keeps ResNet's."""
        if self.stem == "convolution":
            return None
        norm, pooling = nn.BatchNorm2d(channels), nn.MaxPool2d(_BLOCK, ceil_mode=True)
        return nn.Sequential(BlockAttention(channels), norm, pooling)


class LocalAttention(nn.Module):
    """Multi-head attention of each cell to the window around it (equation 3); scores are not scaled.

    The relative embedding of a cell has the embedding of its row offset in the first half of the channels, and of its
    column offset in the second half. All heads share the embeddings. Cells outside of the map are not attended to.
    """

    def __init__(self, channels: int, kernel_size: int = 7, num_heads: int = 8) -> None:
        super().__init__()
        if channels % (2 * num_heads):
            raise ValueError(
                f"sasa: {channels} channels are not a multiple of 2 x num_heads, {2 * num_heads}; each head has half "
                "of its channels for row offsets. Change width or sasa.num_heads."
            )
        self.kernel_size, self.num_heads, self.attention = kernel_size, num_heads, attention
        self.query = nn.Conv2d(channels, channels, 1, bias=False)
        self.key = nn.Conv2d(channels, channels, 1, bias=False)
        self.value = nn.Conv2d(channels, channels, 1, bias=False)
        half = channels // num_heads // 2
        self.row_embeddings = nn.Parameter(torch.empty(kernel_size, half))
        self.column_embeddings = nn.Parameter(torch.empty(kernel_size, half))
        self.initialise()

    def initialise(self) -> None:
        """Initial weights that give scores a variance near 1. The authors' code is not published."""
        for layer in (self.query, self.key, self.value):
            nn.init.normal_(layer.weight, std=layer.in_channels**-0.5)
        for table in (self.row_embeddings, self.column_embeddings):
            nn.init.normal_(table, std=(2 * table.shape[1]) ** -0.5)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        heads = (self.num_heads, -1)
        query = self.query(x).flatten(2).transpose(1, 2).unflatten(2, heads)[..., None, :]  # (B, N, heads, 1, D)
        key = sliding_windows(self.key(x), self.kernel_size).unflatten(2, heads)  # (B, N, heads, D, K)
        value = sliding_windows(self.value(x), self.kernel_size).unflatten(2, heads)
        bias = query @ self.embeddings().T.to(query.dtype)  # (B, N, heads, 1, K)
        bias = bias + outside(bias[:, :, 0, 0, 0].unflatten(1, x.shape[2:])[:, None], self.kernel_size)[:, None, None]
        y = self.attention(query, key.transpose(-2, -1), value.transpose(-2, -1), bias, scale=1.0)
        return y.flatten(2).transpose(1, 2).unflatten(2, x.shape[2:])

    def embeddings(self) -> Tensor:
        """The relative embeddings of the cells of a window, (kernel_size ** 2, D), in row-major order."""
        k = self.kernel_size
        rows, columns = self.row_embeddings[:, None].expand(-1, k, -1), self.column_embeddings.expand(k, -1, -1)
        return torch.cat([rows, columns], dim=-1).flatten(0, 1)


class BlockAttention(nn.Module):
    """Attention inside blocks of 4 x 4 pixels, with values that depend on positions (section 3.2 and appendix).

    The value matrix of a pixel is a mean of 4 matrices. Their weights are a softmax of products: the embedding of each
    matrix times the embedding of the pixel's row and column in the block. Blocks at the right and bottom may be
    incomplete.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        if channels % _STEM_HEADS:
            raise ValueError(f"sasa.stem attention needs a multiple of {_STEM_HEADS} channels, but has {channels}.")
        width = channels // _STEM_HEADS
        self.attention = attention
        self.query = nn.Linear(3, channels, bias=False)
        self.key = nn.Linear(3, channels, bias=False)
        self.values = nn.Parameter(torch.empty(_MIXTURES, channels, 3))
        self.row_embeddings = nn.Parameter(torch.empty(_BLOCK, width))
        self.column_embeddings = nn.Parameter(torch.empty(_BLOCK, width))
        self.mixture_embeddings = nn.Parameter(torch.empty(_MIXTURES, width))
        self.initialise()

    def initialise(self) -> None:
        for weight in (self.query.weight, self.key.weight, self.values):
            nn.init.normal_(weight, std=3**-0.5)
        for table in (self.row_embeddings, self.column_embeddings, self.mixture_embeddings):
            nn.init.normal_(table)

    def forward(self, x: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, C, H, W)."""
        B, _, H, W = x.shape
        bottom, right = -H % _BLOCK, -W % _BLOCK
        pixels = F.pad(x, (0, right, 0, bottom)).permute(0, 2, 3, 1)
        blocks = window_partition(pixels, _BLOCK).unflatten(0, (B, -1))  # (B, N, 16, 3)
        query, key = self.query(blocks), self.key(blocks)
        value = torch.einsum("bnpi,poi->bnpo", blocks, self.value_matrices().to(blocks.dtype))
        query, key, value = (y.unflatten(3, (_STEM_HEADS, -1)).transpose(2, 3) for y in (query, key, value))
        bias = None
        if is_exporting() or bottom or right:
            inside = F.pad(torch.ones_like(x[:1, :1]), (0, right, 0, bottom)).permute(0, 2, 3, 1)
            bias = torch.zeros_like(window_partition(inside, _BLOCK)[:, :, 0], dtype=query.dtype)
            bias = bias.masked_fill(window_partition(inside, _BLOCK)[:, :, 0] == 0, -torch.inf)[:, None, None]
        y = self.attention(query, key, value, bias, scale=1.0)  # (B, N, heads, 16, D)
        y = y.transpose(2, 3).flatten(3)  # (B, N, 16, C)
        return window_reverse(y.flatten(0, 1), _BLOCK, H + bottom, W + right)[:, :H, :W].permute(0, 3, 1, 2)

    def value_matrices(self) -> Tensor:
        """The value matrix of each pixel of a block, (16, C, 3)."""
        positions = (self.row_embeddings[:, None] + self.column_embeddings).flatten(0, 1)  # (16, D)
        weights = (positions @ self.mixture_embeddings.T).softmax(-1)  # (16, mixtures)
        return torch.einsum("pm,moi->poi", weights, self.values)
