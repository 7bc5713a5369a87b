"""The decoder's cross-attention: deformable attention to the memory itself, without value and output projections."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from densevit.layers.deformable_attention import Shapes, deformable_sampling
from densevit.layers.precision import at_least_fp32


class DeformableSampling(nn.Module):
    """Multi-scale deformable attention whose values are the memory, split into heads (D-FINE, Peng et al. 2024).

    points: number of sampling points of each level.
    """

    def __init__(self, width: int, heads: int, points: Sequence[int], deterministic: bool = False) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"width is {width}; it must be a multiple of num_heads, {heads}.")
        self.heads, self.points, self.deterministic = heads, tuple(points), deterministic
        self.offsets = nn.Linear(width, heads * sum(points) * 2)
        self.weights = nn.Linear(width, heads * sum(points))
        self._initialise()

    def _initialise(self) -> None:
        for layer in (self.offsets, self.weights):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)
        angle = torch.arange(self.heads) * (2 * math.pi / self.heads)
        direction = torch.stack([angle.cos(), angle.sin()], -1)  # (N, 2)
        direction = direction / direction.abs().amax(-1, keepdim=True)
        steps = torch.cat([torch.arange(1, count + 1) for count in self.points])[:, None]  # (K, 1)
        with torch.no_grad():
            self.offsets.bias.copy_((direction[:, None] * steps).flatten())

    def forward(self, query: Tensor, reference: Tensor, memory: Tensor, shapes: Shapes) -> Tensor:
        """Attends from queries (B, Q, C) to the cells of all levels, memory (B, S, C). Returns (B, Q, C).

        reference: (B, Q, L, 4) boxes cxcywh in 0 ... 1 of each padded map; offsets are in w and h over twice the number
        of points of the level. Locations are computed in at least fp32, also under autocast.
        """
        offsets = at_least_fp32(self.offsets(query)).unflatten(-1, (self.heads, -1, 2))  # (B, Q, N, K, 2)
        weights = at_least_fp32(self.weights(query)).unflatten(-1, (self.heads, -1)).softmax(-1)
        reference = at_least_fp32(reference)
        locations = torch.cat(
            [
                box[:, :, None, None, :2] + part * (box[:, :, None, None, 2:] / (2 * count))
                for box, part, count in zip(
                    reference.unbind(2), offsets.split(self.points, 3), self.points, strict=True
                )
            ],
            dim=3,
        )
        value = memory.unflatten(-1, (self.heads, -1))
        return deformable_sampling(value, shapes, self.points, locations, weights, self.deterministic)
