"""Local relation layer (Hu et al. 2019, "Local Relation Networks for Image Recognition", section 3)."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from densevit.layers.mlp import Mlp
from densevit_papers.sliding_windows import check_kernel_size, outside, sliding_windows

Similarity = Literal["squared_difference", "absolute_difference", "multiplication"]


@dataclass(frozen=True)
class LocalRelations:
    """The option `lr_net` of `attention_resnet`; the defaults are LR-Net's (table 2).

    kernel_size: side of the window of cells that each cell is composed of.
    sharing: channels with the same weights, m.
    similarity: the function of the scalar query of a cell and the scalar key of another (equations 4 to 6).
    stem: "local_relation" in place of ResNet's first convolution, as in the paper; or "convolution", ResNet's.
    stages: the stages, from 1, whose 3x3 convolutions become local relation layers.
    """

    kernel_size: int = 7
    sharing: int = 8
    similarity: Similarity = "squared_difference"
    stem: Literal["local_relation", "convolution"] = "local_relation"
    stages: tuple[int, ...] = (1, 2, 3, 4)

    def __post_init__(self) -> None:
        check_kernel_size(self.kernel_size)
        if self.sharing < 1:
            raise ValueError(f"sharing is {self.sharing}; it is a number of channels, 1 or more.")
        if not self.stages or not set(self.stages) <= {1, 2, 3, 4}:
            raise ValueError(f"stages is {self.stages}; expected numbers from 1 to 4.")

    def bottleneck(self, stage: int) -> int:
        """Channels of the bottleneck, per 256 channels of its output."""
        return 100 if stage in self.stages else 64

    def layer(self, channels: int, stride: int, map_stride: int) -> nn.Module:
        return LocalRelation(channels, self.kernel_size, self.sharing, self.similarity, stride)

    def stem_layers(self, channels: int) -> nn.Sequential | None:
        """The layers in place of ResNet's first convolution and max pooling; None: keeps ResNet's."""
        if self.stem == "convolution":
            return None
        return nn.Sequential(
            nn.Conv2d(3, channels, 1, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(inplace=True),
            self.layer(channels, 2, 1),
            nn.BatchNorm2d(channels),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(3, stride=2, padding=1),
        )


class LocalRelation(nn.Module):
    """The mean of the cells of a window, weighted by their relation to the central cell, and a 1x1 convolution.

    The weights are a softmax over the window of the similarity of query and key (appearance composability) plus a
    geometry prior, which a network of two layers computes from the offset. `sharing` consecutive channels share
    weights, query and key; the last group may be smaller. Cells outside of the map have no weight.
    """

    def __init__(
        self,
        channels: int,
        kernel_size: int = 7,
        sharing: int = 8,
        similarity: Similarity = "squared_difference",
        stride: int = 1,
    ) -> None:
        super().__init__()
        groups = -(-channels // sharing)
        self.kernel_size, self.sharing, self.similarity, self.stride = kernel_size, sharing, similarity, stride
        self.query = nn.Conv2d(channels, groups, 1, bias=False)
        self.key = nn.Conv2d(channels, groups, 1, bias=False)
        self.geometry = Mlp(2, groups, groups, 2)
        self.output = nn.Conv2d(channels, channels, 1, bias=False)
        self.initialise()

    def initialise(self) -> None:
        """Queries and keys of variance near 1. The authors' code is not published."""
        for layer in (self.query, self.key):
            nn.init.normal_(layer.weight, std=layer.in_channels**-0.5)
        nn.init.kaiming_normal_(self.output.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, ceil(H / stride), ceil(W / stride))."""
        query = self.query(x[:, :, :: self.stride, :: self.stride])  # (B, G, H', W')
        key = sliding_windows(self.key(x), self.kernel_size, self.stride)  # (B, N, G, K)
        scores = self._similarity(query.flatten(2).transpose(1, 2)[..., None], key)
        mask = outside(x, self.kernel_size, self.stride)  # (N, K)
        weights = (scores + self.geometry_prior() + mask[:, None]).softmax(-1)
        C, missing = x.shape[1], -x.shape[1] % self.sharing
        values = F.pad(x, (0, 0, 0, 0, 0, missing)) if missing else x
        windows = sliding_windows(values, self.kernel_size, self.stride).unflatten(2, (-1, self.sharing))
        y = windows @ weights.to(windows.dtype)[..., None]  # (B, N, G, sharing, 1)
        y = y.flatten(2)[..., :C].transpose(1, 2).unflatten(2, query.shape[2:])
        return self.output(y)

    def _similarity(self, query: Tensor, key: Tensor) -> Tensor:
        """The similarity of N cells to the K cells of their windows, in G channel groups.

        query: (B, N, G, 1). key: (B, N, G, K). Returns (B, N, G, K).
        """
        if self.similarity == "multiplication":
            return query * key
        difference = query - key
        return -difference.square() if self.similarity == "squared_difference" else -difference.abs()

    def geometry_prior(self) -> Tensor:
        """Scores of the offsets in a window, (G, kernel_size ** 2), from offsets that are 1 at the window's border."""
        k, weight = self.kernel_size, self.query.weight
        offsets = torch.linspace(-1, 1, k, device=weight.device, dtype=weight.dtype) if k > 1 else weight.new_zeros(1)
        grid = torch.stack(torch.meshgrid(offsets, offsets, indexing="ij"), dim=-1)  # (k, k, 2)
        return self.geometry(grid.flatten(0, 1)).T
