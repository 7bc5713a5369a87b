"""Points at which masks are compared, as in PointRend (Kirillov et al. 2020, section 3.1)."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor
from torch.nn import functional as F

OVERSAMPLING = 3.0
IMPORTANCE = 0.75  # share of points that are the most uncertain; the others are random
_CHUNK = 2**24  # values of the maps that are computed at once: 64 MB in fp32


def chunks(layers: int, values: int) -> Iterator[slice]:
    """Slices of decoder layers: as many at once as memory allows.

    values: the number of values in the maps of one layer.
    """
    step = max(1, _CHUNK // max(1, values))
    for first in range(0, layers, step):
        yield slice(first, min(first + step, layers))


def sample(maps: Tensor, points: Tensor) -> Tensor:
    """Bilinear samples of maps (N, C, h, w) at points (N, P, 2), xy in 0 ... 1 of the map. Returns (N, C, P)."""
    return F.grid_sample(maps, 2.0 * points[:, :, None] - 1.0, align_corners=False)[..., 0]


def random_points(count: int, num_points: int, device: torch.device, generator: torch.Generator | None) -> Tensor:
    """Uniform points (count, num_points, 2), in 0 ... 1."""
    return torch.rand(count, num_points, 2, device=device, generator=generator)


@torch.no_grad()
def uncertain_points(
    maps: Tensor,
    scale: Tensor,
    num_points: int,
    generator: torch.Generator | None,
    point_weights: Callable[[Tensor], Tensor | None] = lambda points: None,
) -> Tensor:
    """Points for the mask losses: three quarters have the logits nearest 0 among random candidates, the others are
    random.

    maps: logits (N, h, w). scale: (N, 2), the share of columns and rows of each map that are the image. point_weights:
    returns the weights (N, P) of points (N, P, 2), None if all are 1; points of weight 0 are not chosen as uncertain if
    there are enough others. Returns (N, num_points, 2), xy in 0 ... 1 of the image.
    """
    candidates = random_points(len(maps), int(num_points * OVERSAMPLING), maps.device, generator)
    uncertainty = -sample(maps[:, None], candidates * scale[:, None])[:, 0].abs()  # (N, 3P)
    weight = point_weights(candidates)
    if weight is not None:
        uncertainty = uncertainty.masked_fill(weight <= 0, float("-inf"))
    best = uncertainty.topk(int(IMPORTANCE * num_points), dim=1).indices
    chosen = candidates.gather(1, best[..., None].expand(-1, -1, 2))
    random = random_points(len(maps), num_points - best.shape[1], maps.device, generator)
    return torch.cat([chosen, random], dim=1)
