"""Bipartite matching of mask queries to segments, by points (section 3.3)."""

import functools
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from densevit.losses.distributed import to_device
from densevit.losses.matching import finite_costs
from densevit.set_prediction.mask_segments import Segments
from densevit_heads.mask2former.points import chunks, random_points, sample
from densevit_heads.mask2former.transformer import MaskQueries


class Weights(NamedTuple):
    """Weights of the terms, of the matching costs and of the losses (section 4.1)."""

    label: float = 2.0
    mask: float = 5.0
    dice: float = 5.0


class Pairs(NamedTuple):
    """The M matched pairs of each of L layers, in the order of images. image: (M,). query, target: (L, M), the latter
    among all T segments. counts: pairs per image."""

    image: Tensor
    query: Tensor
    target: Tensor
    counts: list[int]


@torch.no_grad()
def match(
    outputs: MaskQueries,
    pixels: Tensor,
    segments: Segments,
    scales: Tensor,
    num_points: int,
    weights: Weights,
    generator: torch.Generator | None = None,
    strict: bool = True,
) -> Pairs:
    """Assigns each segment to one query with minimum total cost, per image and layer.

    pixels: (B, C, h, w), or (L, B, C, h, w) of each layer. scales: (B, 2), see `uncertain_points`. Costs are compared
    at random points, the same for all layers and queries of an image, and copied to the CPU once. Segments in excess of
    the queries stay unmatched.
    strict: the argument of `assign` in `densevit.losses.matching`.
    """
    L, _, Q = outputs.embeddings.shape[:3]
    costs = []  # (L, Q, T_i) each
    for image, count in enumerate(segments.counts):
        if count:
            points = random_points(1, num_points, pixels.device, generator)
            label = -outputs.logits[:, image].float().softmax(-1)[..., segments.labels.split(segments.counts)[image]]
            others = weights.label * label
            costs.append(costs_of_image(others, outputs.embeddings, pixels, segments, scales, image, points, weights))
    device = pixels.device
    if not costs:
        empty = torch.zeros(0, dtype=torch.long, device=device)
        return Pairs(empty, empty.view(1, 0).expand(L, 0), empty.view(1, 0).expand(L, 0), segments.counts)
    flat = torch.cat([cost.flatten(1) for cost in costs], dim=1).cpu().numpy()  # (L, Q * T)
    queries: list[list[np.ndarray]] = [[] for _ in range(L)]
    targets: list[list[np.ndarray]] = [[] for _ in range(L)]
    from scipy.optimize import linear_sum_assignment  # half a second

    first = 0
    for image, count in enumerate(segments.counts):
        for layer in range(L):
            cost = flat[layer, Q * first : Q * (first + count)].reshape(Q, count)
            name = segments.names[image]
            cost = finite_costs(cost, functools.partial(_not_finite, cost, layer, name), strict)
            rows, columns = linear_sum_assignment(cost)
            queries[layer].append(rows)
            targets[layer].append(columns + first)
        first += count
    pairs = np.stack([[np.concatenate(x) for x in side] for side in (queries, targets)])  # (2, L, M)
    counts = [min(count, Q) for count in segments.counts]
    images = to_device(torch.repeat_interleave(torch.tensor(counts)), device)
    query, target = to_device(torch.from_numpy(pairs).long(), device).unbind(0)
    return Pairs(images, query, target, counts)


def costs_of_image(
    others: Tensor, embeddings: Tensor, pixels: Tensor, segments: Segments, scales: Tensor, image: int, points: Tensor,
    weights: Weights,
) -> Tensor:  # fmt: skip
    """Costs (L, Q, T_i) of an image: other weighted costs (L, Q, T_i), plus binary cross-entropy and dice at points
    (1, P, 2), without unlabelled pixels. embeddings: (L, B, Q, C)."""
    first, count = sum(segments.counts[:image]), segments.counts[image]
    targets = torch.arange(first, first + count, device=points.device)
    truth = segments.at(targets, points.expand(count, -1, -1)).T  # (P, T_i)
    known = segments.point_weights(targets[:1], points)
    known = torch.ones_like(truth[:, 0]) if known is None else known[0]  # (P,)
    # Sampling and products are linear: the samples of per-pixel embeddings, (C, P) or (L, C, P), give those of masks.
    maps = pixels[..., image, :, :, :]
    embedded = sample(maps.flatten(0, -3)[None], points * scales[image])[0].view(*maps.shape[:-2], -1)
    area, layers, queries = truth.sum(0), embeddings.shape[0], embeddings.shape[2]
    costs = []
    for part in chunks(layers, queries * points.shape[1]):
        x = embeddings[part, image] @ (embedded[part] if embedded.ndim == 3 else embedded)  # (l, Q, P)
        cross_entropy = (F.softplus(x) @ known[:, None] - x @ truth) / known.sum().clamp(min=1e-6)
        p = x.sigmoid()
        dice = 1 - (2 * p @ truth + 1) / (p @ known[:, None] + area + 1)
        costs.append(others[part] + weights.mask * cross_entropy + weights.dice * dice)
    return torch.cat(costs)


def _not_finite(cost: np.ndarray, layer: int, name: int | str) -> str:
    query, target = (int(index[0]) for index in np.nonzero(~np.isfinite(cost)))
    return (
        f"Image {name!r}: the matching cost of segment {target} with query {query} of decoder layer {layer} is "
        f"{cost[query, target]}. Predictions have diverged. Fix: lower the learning rate, or clip gradients "
        "(trainer.clip_grad_norm)."
    )
