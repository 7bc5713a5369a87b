"""Self-attention block of SAGAN (Zhang et al. 2019, "Self-Attention Generative Adversarial Networks", section 3)."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from densevit.layers.attention import attention
from densevit.set_prediction.limits import check_counts


@dataclass(frozen=True)
class SelfAttention:
    """The option `sagan` of `attention_resnet`; the defaults are the authors'.

    stages: a block follows the last residual block of each of these stages, from 1. The paper's best position is the
        map of stride 4 of 128 x 128 images.
    pooling: keys and values are the maxima over 2 x 2 cells.
    value_reduction: the input's channels per channel of values: 2 in the authors' code, 8 in the paper.
    """

    stages: tuple[int, ...] = (1,)
    pooling: bool = True
    value_reduction: int = 2

    def __post_init__(self) -> None:
        if not self.stages or not set(self.stages) <= {1, 2, 3, 4}:
            raise ValueError(f"stages is {self.stages}; it must have one or more of 1, 2, 3 and 4.")
        check_counts({"value_reduction": self.value_reduction})

    def block(self, channels: int) -> nn.Module:
        return SelfAttentionBlock(channels, self.pooling, self.value_reduction)


class SelfAttentionBlock(nn.Module):
    """x + gamma o, o the attention of each cell to all cells; gamma is initially 0 (equations 1 to 3).

    Queries and keys have an eighth of the channels. Scores are not scaled. The paper's spectral norm, for GAN training,
    is left out.
    """

    def __init__(self, channels: int, pooling: bool = True, value_reduction: int = 2) -> None:
        super().__init__()
        inner, values = max(channels // 8, 1), max(channels // value_reduction, 1)
        self.pooling, self.attention = pooling, attention
        self.query = nn.Conv2d(channels, inner, 1, bias=False)
        self.key = nn.Conv2d(channels, inner, 1, bias=False)
        self.value = nn.Conv2d(channels, values, 1, bias=False)
        self.output = nn.Conv2d(values, channels, 1, bias=False)
        self.gamma = nn.Parameter(torch.zeros(()))
        self.initialise()

    def initialise(self) -> None:
        for layer in (self.query, self.key, self.value, self.output):
            nn.init.xavier_uniform_(layer.weight)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        key, value = self.key(x), self.value(x)
        if self.pooling:
            key, value = (F.max_pool2d(y, 2, ceil_mode=True) for y in (key, value))
        query, key, value = (y.flatten(2).transpose(1, 2) for y in (self.query(x), key, value))  # (B, N or S, C')
        y = self.attention(query, key, value, scale=1.0).transpose(1, 2).unflatten(2, x.shape[2:])
        return x + self.gamma * self.output(y)
