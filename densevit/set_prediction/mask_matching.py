"""Bipartite matching of mask queries to segments, by points (Mask2Former, Cheng et al. 2022, section 3.3)."""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from densevit.losses.matching import MatchedPairs, assign
from densevit.set_prediction.mask_points import chunks, random_points, sample
from densevit.set_prediction.mask_segments import Segments
from densevit.set_prediction.queries import MaskQueries


class MaskWeights(NamedTuple):
    """Weights of the terms, of the matching costs and of the losses (section 4.1)."""

    label: float = 2.0
    mask: float = 5.0
    dice: float = 5.0


@torch.no_grad()
def match(
    outputs: MaskQueries,
    pixels: Tensor,
    segments: Segments,
    scales: Tensor,
    num_points: int,
    weights: MaskWeights,
    generator: torch.Generator | None = None,
    strict: bool = True,
) -> MatchedPairs:
    """Assigns each segment to one query with minimum total cost, per image and layer.

    pixels: (B, C, h, w), or (L, B, C, h, w) of each layer. scales: (B, 2), see `uncertain_points`. Costs are compared
    at random points, the same for all layers and queries of an image. strict: the argument of `assign`. Returns pairs
    on the CPU, in the order of images and queries.
    """
    costs = [outputs.logits.new_zeros(len(outputs.logits), 0, outputs.logits.shape[2]).float()]  # (L, T_i, Q) each
    for image, labels in enumerate(segments.labels.split(segments.counts)):
        if len(labels):
            points = random_points(1, num_points, pixels.device, generator)
            label = -weights.label * outputs.logits[:, image].float().softmax(-1)[..., labels]
            cost = costs_of_image(label, outputs.embeddings, pixels, segments, scales, image, points, weights)
            costs.append(cost.transpose(1, 2))
    return assign(torch.cat(costs, dim=1), segments.counts, segments.names, strict).by_query()


def costs_of_image(
    others: Tensor, embeddings: Tensor, pixels: Tensor, segments: Segments, scales: Tensor, image: int, points: Tensor,
    weights: MaskWeights,
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
