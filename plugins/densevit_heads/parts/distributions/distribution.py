"""Fine-grained distribution refinement: boxes as distributions of edge offsets (Peng et al. 2024, section 4.1).

Each edge of a box has N + 1 logits. Their softmax weighs the values W(0) ... W(N) of a non-uniform weighting function;
the sum, times the width or height of a reference box, is the offset of the edge from the reference.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from densevit.layers.table_cache import cached_table
from densevit.losses.boxes import to_centres

A = 0.5  # the upper bound of W(1) ... W(N - 1); W(0) and W(N) are twice as far


def weighting_function(num_bins: int, reg_scale: float, device: torch.device) -> Tensor:
    """W(0) ... W(N) of equation 3 times c' = `reg_scale`, ascending and point-symmetric around W(N / 2) = 0.

    num_bins: N, even. reg_scale: 1 / c of the paper; the larger, the finer the steps around 0. Returns (N + 1,), fp32.
    """
    return cached_table(_values, num_bins, reg_scale, device)


def _values(num_bins: int, reg_scale: float, device: torch.device) -> Tensor:
    steps = torch.arange(1, num_bins // 2, device=device, dtype=torch.float32)
    right = torch.exp(steps * (2 / (num_bins - 2)) * torch.log1p(torch.full_like(steps, A * reg_scale))) - 1
    ends = torch.full((1,), 2 * A * reg_scale, device=device)
    return torch.cat([-ends, -right.flip(0), torch.zeros_like(ends), right, ends])


def integral(corners: Tensor, values: Tensor) -> Tensor:
    """The expected W(n) of each edge. corners: logits (..., 4 * (N + 1)). values: (N + 1,). Returns (..., 4)."""
    return corners.unflatten(-1, (4, -1)).softmax(-1) @ values


def boxes_from_distances(reference: Tensor, distances: Tensor, reg_scale: float) -> Tensor:
    """Boxes (..., 4) cxcywh of edges at distances from a reference.

    reference: (..., 4) cxcywh. distances: (..., 4), left, top, right and bottom, outwards from the edges of the
    reference, in 1 / `reg_scale` of its width and height.
    """
    centre, size = reference.split(2, dim=-1)
    offsets = (0.5 * reg_scale + distances) * (torch.cat([size, size], dim=-1) / reg_scale)
    low, high = offsets.split(2, dim=-1)
    return to_centres(torch.cat([centre - low, centre + high], dim=-1))


def distances_of_boxes(reference: Tensor, corners: Tensor, reg_scale: float) -> Tensor:
    """Inverse of `boxes_from_distances`. reference: (..., 4) cxcywh. corners: boxes (..., 4) xyxy. Returns (..., 4)."""
    centre, unit = reference[..., :2], reference[..., 2:] / reg_scale + 1e-16
    low, high = (centre - corners[..., :2]) / unit, (corners[..., 2:] - centre) / unit
    return torch.cat([low, high], dim=-1) - 0.5 * reg_scale


class SoftBins(NamedTuple):
    """Two adjacent bins whose weighted values are a distance. left: (...) index below N. right_weight: (...)."""

    left: Tensor
    right_weight: Tensor

    def expand(self, layers: int) -> "SoftBins":
        """The same bins for each of L layers: (...) -> (L, ...)."""
        return SoftBins(*(x.expand(layers, *x.shape) for x in self))


def soft_bins(distances: Tensor, values: Tensor) -> SoftBins:
    """The bins left and right of each distance (..., ), and the weight of the right one.

    values: (N + 1,), ascending. A distance outside the values has the first or the last bin alone.
    """
    last = len(values) - 2
    left = (torch.searchsorted(values, distances.contiguous(), right=True) - 1).clamp(0, last)
    low, high = values[left], values[left + 1]
    return SoftBins(left, ((distances - low) / (high - low)).clamp(0, 1))
