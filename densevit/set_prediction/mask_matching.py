"""Bipartite matching of mask queries to segments, by points (Mask2Former, Cheng et al. 2022, section 3.3)."""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from densevit.losses.matching import MatchedPairs, assign, class_probabilities
from densevit.set_prediction.mask_segments import MaskSegments, PaddingMode, chunks, random_points, sample
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
    segments: MaskSegments,
    scales: Tensor,
    num_points: int,
    weights: MaskWeights,
    generator: torch.Generator | None = None,
    strict: bool = True,
) -> MatchedPairs:
    """Assigns each segment to one query with minimum total cost, per image and layer.

    pixels: (B, C, h, w), or (L, B, C, h, w) of each layer. scales: (B, 2) (`uncertain_points`). strict: the argument
    of `assign`. Returns pairs on the CPU, in the order of images and queries.
    """
    probabilities = class_probabilities(outputs.logits.float(), segments.labels, segments.image, segments.labelled)
    cost = mask_costs(outputs.embeddings, pixels, segments, scales, num_points, weights, generator)
    cost = cost - weights.label * probabilities
    return assign(cost, segments.counts, segments.names, strict).by_query()


@torch.no_grad()
def mask_costs(
    embeddings: Tensor,
    pixels: Tensor,
    segments: MaskSegments,
    scales: Tensor,
    num_points: int,
    weights: MaskWeights,
    generator: torch.Generator | None,
    padding_mode: PaddingMode = "zeros",
) -> Tensor:
    """Binary cross-entropy and dice of each segment and the queries of its image, (L, T, Q), at random points, the same
    for all layers and queries of an image, without unlabelled pixels.

    embeddings: (L, B, Q, C). padding_mode: the argument of `sample`. Other arguments: see `match`.
    """
    L, B, Q = embeddings.shape[:3]
    none = pixels.new_zeros(1, num_points, 2)  # no number is drawn for an image without segments
    drawn = (random_points(1, num_points, pixels.device, generator) if count else none for count in segments.counts)
    points = torch.cat([*drawn])  # (B, P, 2)
    targets, segment_points = torch.arange(len(segments.ids), device=points.device), points[segments.image]
    truth, labelled = segments.at(targets, segment_points), segments.point_weights(targets, segment_points)  # (T, P)
    labelled = torch.ones_like(truth) if labelled is None else labelled
    # Sampling and products are linear: the samples of per-pixel embeddings, (B or L * B, C, P), give samples of masks.
    maps = pixels.flatten(0, -4)
    in_maps = (points * scales[:, None]).repeat(len(maps) // B, 1, 1)
    embedded = sample(maps, in_maps, padding_mode).unflatten(0, (-1, B))
    costs = [truth.new_zeros(L, 0, Q)]
    for image, rows in enumerate(zip(truth.split(segments.counts), labelled.split(segments.counts), strict=True)):
        t, w = rows[0].T, rows[1][:1].T  # (P, T_i), (P, 1)
        area, labelled_area = t.sum(0), w.sum().clamp(min=1e-6)
        parts = []
        for part in chunks(L, Q * num_points) if t.shape[1] else ():
            x = embeddings[part, image] @ embedded[part if len(embedded) > 1 else 0, image]  # (l, Q, P)
            x = x.flatten(0, 1)
            cross_entropy = (F.softplus(x) @ w - x @ t) / labelled_area  # (l * Q, T_i)
            x = x.sigmoid()
            dice = 1 - (2 * x @ t + 1) / (x @ w + area + 1)
            parts.append(weights.mask * cross_entropy + weights.dice * dice)
        if parts:
            costs.append(torch.cat(parts).unflatten(0, (L, Q)).transpose(1, 2))
    return torch.cat(costs, dim=1)
