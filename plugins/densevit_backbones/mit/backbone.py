"""Mix Transformer (MiT, Xie et al. 2021, section 3.1): attention to reduced maps, and positions from convolutions."""

import math
from typing import Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from densevit.interfaces import Backbone
from densevit.layers import checkpointing as activation_checkpointing
from densevit.layers.attention import attention
from densevit.layers.drop_path import DropPath
from densevit_backbones.linear_weights import truncated_normal
from densevit_backbones.mit.variants import HEADS, REDUCTIONS, VARIANTS

_EXPANSION = 4  # of the MLPs


class MixTransformer(Backbone):
    """Mix Transformer: features of strides 4, 8, 16 and 32, each with a layer norm.

    Any input size; each map is ceil(size / stride), by the padding of the overlapping patches. It has no position
    table: a depthwise convolution in each MLP encodes positions by the zeros at the border. Keys and values are means
    over squares of cells with learned weights; incomplete squares at the right and bottom are left out, as in the
    authors' code, unless the map is smaller than one square. Padding of the image at the right and bottom changes
    features, because each token attends to the whole map.

    variant: "b0" to "b5" of the paper's table 6.
    drop_path: stochastic depth of the last block, linear from 0 at the first.
    norm_eps: epsilon of the norms of blocks and features: 1e-6 in the authors' code, 1e-5 in transformers.
    gradient_checkpointing: activation checkpointing per block in training.
    in_channels: the number of channels of images.
    """

    def __init__(
        self,
        variant: Literal["b0", "b1", "b2", "b3", "b4", "b5"] = "b0",
        drop_path: float = 0.1,
        norm_eps: float = 1e-6,
        gradient_checkpointing: bool = False,
        in_channels: int = 3,
    ) -> None:
        super().__init__()
        if not 0 < norm_eps < 1:
            raise ValueError(f"norm_eps is {norm_eps:g}; it must be above 0 and below 1.")
        widths, counts = VARIANTS[variant]
        self.channels, self.strides = widths, (4, 8, 16, 32)
        self.gradient_checkpointing = gradient_checkpointing
        rates = [drop_path * i / (sum(counts) - 1) for i in range(sum(counts))]
        self.patches, self.stages = nn.ModuleList(), nn.ModuleList()
        for i, width in enumerate(widths):
            kernel, stride, inputs = (7, 4, in_channels) if i == 0 else (3, 2, widths[i - 1])
            own_rates = rates[sum(counts[:i]) : sum(counts[: i + 1])]
            self.patches.append(PatchEmbedding(inputs, width, kernel, stride))
            self.stages.append(nn.Sequential(*(Block(width, HEADS[i], REDUCTIONS[i], r, norm_eps) for r in own_rates)))
        self.feature_norms = nn.ModuleList(nn.LayerNorm(width, eps=norm_eps) for width in widths)
        self.apply(_initialise)

    def forward(self, images: Tensor) -> list[Tensor]:
        x, features = images, []
        for patches, stage, norm in zip(self.patches, self.stages, self.feature_norms, strict=True):
            x = patches(x)
            for block in stage.children():
                x = activation_checkpointing.run(block, x, checkpointed=self.gradient_checkpointing and self.training)
            x = norm(x).permute(0, 3, 1, 2)
            features.append(x)
        return features

    def parameter_depths(self) -> list[list[nn.Parameter]]:
        """Groups: the first patches, and each block, with the patches before and the norm after it."""
        depths: list[list[nn.Parameter]] = []
        for patches, stage, norm in zip(self.patches, self.stages, self.feature_norms, strict=True):
            first, *blocks = (list(block.parameters()) for block in stage.children())
            embedding = list(patches.parameters())
            depths += [embedding + first, *blocks] if depths else [embedding, first, *blocks]
            depths[-1] = depths[-1] + list(norm.parameters())
        return depths


class PatchEmbedding(nn.Module):
    """Projects overlapping patches: a strided convolution and a layer norm ("overlapped patch merging")."""

    def __init__(self, inputs: int, width: int, kernel: int, stride: int) -> None:
        super().__init__()
        self.projection = nn.Conv2d(inputs, width, kernel, stride, padding=kernel // 2)
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, ceil(H / stride), ceil(W / stride), width)."""
        return self.norm(self.projection(x).permute(0, 2, 3, 1))


class Block(nn.Module):
    """Efficient self-attention and Mix-FFN, each after a norm and with a residual connection."""

    def __init__(self, width: int, num_heads: int, reduction: int, drop_path: float, norm_eps: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=norm_eps)
        self.attention = EfficientAttention(width, num_heads, reduction)
        self.norm2 = nn.LayerNorm(width, eps=norm_eps)
        self.mlp = MixFeedForward(width, _EXPANSION * width)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) -> (B, H, W, C)."""
        x = x + self.drop_path(self.attention(self.norm1(x)))
        return x + self.drop_path(self.mlp(self.norm2(x)))


class EfficientAttention(nn.Module):
    """Multi-head attention of all cells to a map that is `reduction` times smaller (equation 2).

    The paper reduces by a linear layer on reshaped tokens, the authors' code by a convolution of stride `reduction`.
    """

    def __init__(self, width: int, num_heads: int, reduction: int) -> None:
        super().__init__()
        self.num_heads, self.ratio, self.attention = num_heads, reduction, attention
        self.query = nn.Linear(width, width)
        self.key_value = nn.Linear(width, 2 * width)
        self.output = nn.Linear(width, width)
        if reduction > 1:
            self.reduction = nn.Conv2d(width, width, reduction, stride=reduction)
            self.reduction_norm = nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) -> (B, H, W, C)."""
        B, H, W, C = x.shape
        D = C // self.num_heads
        query = self.query(x).view(B, H * W, self.num_heads, D).transpose(1, 2)  # (B, heads, N, D)
        reduced = self._reduced(x) if self.ratio > 1 else x
        pair = self.key_value(reduced).view(B, -1, 2, self.num_heads, D)
        key, value = pair.permute(2, 0, 3, 1, 4).unbind(0)  # (B, heads, S, D)
        return self.output(self.attention(query, key, value).transpose(1, 2).reshape(B, H, W, C))

    def _reduced(self, x: Tensor) -> Tensor:
        """(B, H, W, C) -> (B, floor(H / ratio), floor(W / ratio), C), but at least one cell."""
        missing = cast(list[int], [torch.sym_max(self.ratio - side, 0) for side in x.shape[1:3]])
        x = F.pad(x.permute(0, 3, 1, 2), (0, missing[1], 0, missing[0]))
        return self.reduction_norm(self.reduction(x).permute(0, 2, 3, 1))


class MixFeedForward(nn.Module):
    """Mix-FFN: an MLP with a depthwise 3x3 convolution after its first layer (equation 3)."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.expand = nn.Linear(width, hidden)
        self.depthwise = nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden)
        self.activation = nn.GELU()
        self.contract = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) -> (B, H, W, C)."""
        x = self.depthwise(self.expand(x).permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        return self.contract(self.activation(x))


def _initialise(module: nn.Module) -> None:
    """Initial weights of the authors' code."""
    truncated_normal(module)
    if isinstance(module, nn.Conv2d):
        fan_out = module.kernel_size[0] * module.kernel_size[1] * module.out_channels // module.groups
        nn.init.normal_(module.weight, std=math.sqrt(2 / fan_out))
        nn.init.zeros_(module.bias)  # type: ignore[arg-type]  # bias exists
