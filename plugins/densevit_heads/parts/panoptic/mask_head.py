"""DETR's mask head (Carion et al. 2020, section 4.4 and figure 8): attention maps, decoded by an FPN-style CNN."""

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from densevit.layers.norms import GroupNorm
from densevit.set_prediction.memory import Memory

STRIDES = (16, 8, 4)  # of the stages
NORM_GROUPS = 8  # of a group norm, where channels can be divided by it
ATTENTION_GAIN = 300.0  # on the initial weights of the attention maps, whose values are about 1 / (number of cells)


class AttentionMaps(nn.Module):
    """Multi-head attention scores of queries over the encoder's memory, without values ("MHAttentionMap")."""

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.query, self.key = nn.Linear(width, width), nn.Linear(width, width)
        for layer in (self.query, self.key):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, queries: Tensor, memory: Memory, position_bias: Tensor | None = None) -> Tensor:
        """queries: (B, Q, C). Returns (B, Q, heads, H, W); the softmax is over cells and heads together.

        position_bias: (B, heads, Q, S), added to the scores; see `BoxPositionBias`.
        """
        q, k = (x.unflatten(-1, (self.num_heads, -1)) for x in (self.query(queries), self.key(memory.tokens)))
        q = q * q.shape[-1] ** -0.5
        scores = q.transpose(1, 2) @ k.permute(0, 2, 3, 1)  # (B, heads, Q, S)
        scores = scores + memory.attention_bias.to(scores.dtype)
        if position_bias is not None:
            scores = scores + position_bias
        return scores.transpose(1, 2).flatten(2).softmax(-1).unflatten(-1, (self.num_heads, *memory.size))


class Block(nn.Module):
    """3x3 convolution, group norm, ReLU."""

    def __init__(self, channels: int, out_channels: int) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(channels, out_channels, 3, padding=1)
        self.norm = GroupNorm(math.gcd(NORM_GROUPS, out_channels), out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """(P, C, H, W) -> (P, C', H, W)."""
        return F.relu(self.norm(self.convolution(x)))


class MaskHead(nn.Module):
    """A mask for each query from its attention maps, the projected features and finer features ("MaskHeadSmallConv").

    Two convolutions, then stages at strides 16, 8 and 4: each upsamples by nearest neighbour, adds the backbone's
    feature of about that stride, projected by a 1x1 convolution, and halves the channels. A stage without a feature of
    its stride only upsamples; a stage coarser than the projected features keeps their size.

    channels, strides: the channels and strides of the backbone's features. width: C of the projected features, a
    multiple of 16. stride: the stride of the projected features.
    """

    def __init__(
        self, channels: Sequence[int], strides: Sequence[int], width: int, stride: int, num_heads: int
    ) -> None:
        super().__init__()
        self.width, self.stride = width, stride
        self.levels = [_level(strides, wanted) for wanted in STRIDES]
        inner = (width + num_heads, width // 2, width // 4, width // 8, width // 16)
        self.first = Block(inner[0], inner[0])
        self.blocks = nn.ModuleList(Block(a, b) for a, b in pairwise(inner))
        self.adapters = nn.ModuleList(
            nn.Identity() if level is None else nn.Conv2d(channels[level], to, 1)
            for level, to in zip(self.levels, inner[1:-1], strict=True)
        )
        self.output = nn.Conv2d(inner[-1], 1, 3, padding=1)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_uniform_(module.weight, a=1)
                assert module.bias is not None
                nn.init.zeros_(module.bias)
        with torch.no_grad():
            self.first.convolution.weight[:, width:] *= ATTENTION_GAIN

    def forward(
        self, projected: Tensor, attention: Tensor, image: Tensor, features: list[Tensor], size: tuple[int, int]
    ) -> Tensor:
        """Returns the logits of P masks, (P, h, w), at stride 4, or finer if the projected features are.

        projected: (B, C, H, W). attention: (P, heads, H, W). image: (P,), the image of each mask in the batch.
        features: the backbone's. size: (H, W) of the padded batch in pixels.
        """
        convolution = self.first.convolution  # projected features are convolved once per image, not once per mask
        weight, own_weight = convolution.weight.split([self.width, attention.shape[1]], dim=1)
        shared = F.conv2d(projected, weight, convolution.bias, padding=1)
        each_mask = F.conv2d(attention.to(projected.dtype), own_weight, padding=1)  # fp32 with a bias of positions
        x = shared.index_select(0, image) + each_mask
        x = self.blocks[0](F.relu(self.first.norm(x)))
        for wanted, level, adapter, block in zip(STRIDES, self.levels, self.adapters, self.blocks[1:], strict=True):
            if level is not None:
                finer = adapter(features[level])
                x = _resized(x, finer.shape[-2:]) + finer.index_select(0, image)
            elif wanted < self.stride:
                x = _resized(x, tuple(-(-side // wanted) for side in size))
            x = block(x)
        return self.output(x)[:, 0]


def _level(strides: Sequence[int], wanted: int) -> int | None:
    """The index of the last feature of about this stride, preferring one that is not the coarsest; None without one."""
    close = [i for i, stride in enumerate(strides) if wanted / math.sqrt(2) < stride < wanted * math.sqrt(2)]
    finer = [i for i in close if i < len(strides) - 1]
    return next(reversed(finer or close), None)


def _resized(x: Tensor, size: Sequence[int]) -> Tensor:
    return x if x.shape[-2:] == torch.Size(size) else F.interpolate(x, size=tuple(size), mode="nearest")
