"""The layer of linear heads: maps side by side, batch norm, a 1x1 convolution."""

from collections.abc import Sequence
from fractions import Fraction

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from densevit.layers.norms import SyncBatchNorm2d
from densevit_heads.parts.class_map_layers import check_shares, resample


class LinearLayer(nn.Module):
    """Classifies each cell of some feature maps, brought to the size of the finest: (B, C_i, h_i, w_i) -> (B, K, h, w).

    features: numbers of the maps, from 1; None: the last. dropout: the share of channels that are set to 0.
    """

    def __init__(
        self,
        channels: Sequence[int],
        strides: Sequence[int],
        outputs: int,
        features: tuple[int, ...] | None,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        numbers = (len(channels),) if features is None else features
        if not numbers or sorted({*numbers} & {*range(1, len(channels) + 1)}) != [*numbers]:
            raise ValueError(
                f"features is {list(numbers)}; expected ascending numbers from 1 to {len(channels)}, of the maps."
            )
        check_shares({"dropout": dropout})
        self.indices, self.dropout = [number - 1 for number in numbers], dropout
        self.stride = strides[self.indices[0]]
        self.norm = SyncBatchNorm2d(sum(channels[i] for i in self.indices))
        self.convolution = nn.Conv2d(self.norm.num_features, outputs, 1)
        nn.init.normal_(self.convolution.weight, std=0.01)
        nn.init.zeros_(self.convolution.bias)  # type: ignore[arg-type]  # bias exists

    def forward(self, features: list[Tensor]) -> Tensor:
        maps = [features[i] for i in self.indices]
        size = maps[0].shape[-2:]
        maps = [x if x.shape[-2:] == size else F.interpolate(x, size=size, mode="bilinear") for x in maps]
        x = F.dropout2d(torch.cat(maps, 1), self.dropout, self.training)
        y: Tensor = self.convolution(self.norm(x))
        return y

    def to_pixels(self, x: Tensor, size: Sequence[int]) -> Tensor:
        """Bilinear to pixels, then the top-left crop of this size: (B, K, h, w) -> (B, K, *size)."""
        return resample(x, Fraction(self.stride), size)
