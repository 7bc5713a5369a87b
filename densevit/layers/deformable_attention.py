"""Multi-scale deformable attention (Zhu et al. 2021, section 4.1, equation 3)."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from densevit.layers.linear import Linear
from densevit.layers.precision import at_least_fp32, autocast_off


def multi_scale_deformable_attention(
    value: Tensor, shapes: Sequence[tuple[int, int]], locations: Tensor, weights: Tensor
) -> Tensor:
    """Weighted sum of bilinear samples of all levels; zero outside the maps.

    value: (B, S, N, D), the L maps of N heads, concatenated in row-major order. shapes: (H, W) of each, which sum to S.
    locations: (B, Q, N, L, P, 2), xy in 0 ... 1 of each map. weights: (B, Q, N, L, P). Returns (B, Q, N*D).
    """
    B, _, N, D = value.shape
    Q = locations.shape[1]
    with autocast_off(value.device):
        grid = (2 * at_least_fp32(locations) - 1).transpose(1, 2).flatten(0, 1)  # (B*N, Q, L, P, 2)
        samples = []
        for level, (x, (H, W)) in enumerate(zip(value.split([h * w for h, w in shapes], dim=1), shapes, strict=True)):
            x = x.to(grid.dtype).permute(0, 2, 3, 1).reshape(B * N, D, H, W)
            samples.append(F.grid_sample(x, grid[:, :, level], align_corners=False))  # (B*N, D, Q, P)
        weight = weights.to(grid.dtype).transpose(1, 2).reshape(B * N, 1, Q, -1)  # (B*N, 1, Q, L*P)
        out = (torch.cat(samples, dim=-1) * weight).sum(-1)  # (B*N, D, Q)
    return out.view(B, N * D, Q).transpose(1, 2).to(value.dtype)


class MultiScaleDeformableAttention(nn.Module):
    """Multi-head attention to a few sampling points of each level, around a reference point of each query."""

    def __init__(self, width: int, levels: int, heads: int = 8, points: int = 4) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"width is {width}; it must be a multiple of num_heads, {heads}.")
        self.levels, self.heads, self.points = levels, heads, points
        self.value = Linear(width, width)
        self.offsets = Linear(width, heads * levels * points * 2)
        self.weights = Linear(width, heads * levels * points)
        self.output = Linear(width, width)
        self._initialise()

    def _initialise(self) -> None:
        """Points in a direction for each head, at a distance of 1 ... P cells, with equal weights (A.4)."""
        for layer in (self.offsets, self.weights):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)
        for layer in (self.value, self.output):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)
        angle = torch.arange(self.heads) * (2 * math.pi / self.heads)
        direction = torch.stack([angle.cos(), angle.sin()], dim=-1)  # (N, 2)
        direction = direction / direction.abs().amax(-1, keepdim=True)
        distance = torch.arange(1, self.points + 1)
        points = direction[:, None, None] * distance[:, None]  # (N, 1, P, 2)
        with torch.no_grad():
            self.offsets.bias.copy_(points.expand(-1, self.levels, -1, -1).flatten())

    def forward(
        self,
        query: Tensor,
        reference: Tensor,
        memory: Tensor,
        shapes: Sequence[tuple[int, int]],
        padding_mask: Tensor | None = None,
    ) -> Tensor:
        """query: (B, Q, C), positions added. memory: (B, S, C). padding_mask: (B, S) bool, True = padding.

        reference: (B, Q, L, 2), xy in 0 ... 1 of each map; offsets are in cells. Or (B, Q, L, 4), boxes cxcywh; offsets
        are relative to half the box size. Returns (B, Q, C).
        """
        B, Q, _ = query.shape
        value = self.value(memory)
        if padding_mask is not None:
            value = value.masked_fill(padding_mask[..., None], 0.0)
        value = value.unflatten(-1, (self.heads, -1))  # (B, S, N, D)
        offsets = at_least_fp32(self.offsets(query)).view(B, Q, self.heads, self.levels, self.points, 2)
        weights = at_least_fp32(self.weights(query)).view(B, Q, self.heads, -1).softmax(-1)
        weights = weights.view(B, Q, self.heads, self.levels, self.points)
        point = reference[:, :, None, :, None, :2]
        if reference.shape[-1] == 2:
            sides = [offsets.new_full((1,), side) for height, width in shapes for side in (width, height)]  # no copy
            size = torch.cat(sides).view(-1, 2)
            locations = point + offsets / size[:, None]
        else:
            locations = point + offsets / self.points * reference[:, :, None, :, None, 2:] * 0.5
        return self.output(multi_scale_deformable_attention(value, shapes, locations, weights))
