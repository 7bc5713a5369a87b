"""The criterion of mask queries: bipartite matching, and the losses of matched masks at points.

Mask2Former, Cheng et al. 2022, sections 3.3 and 4.1.
"""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from densevit.interfaces import Losses, Targets
from densevit.layers.precision import autocast_off
from densevit.losses.context import Counts, LossContext, loss_normalizers
from densevit.losses.distributed import to_device
from densevit.losses.matching import MatchedPairs
from densevit.losses.set_losses import query_cross_entropy
from densevit.set_prediction.mask_matching import MaskWeights, match
from densevit.set_prediction.mask_segments import (
    OVERSAMPLING,
    REQUIRED_TARGETS,
    MaskSegments,
    PaddingMode,
    Task,
    chunks,
    random_points,
    sample,
    segment_counts,
    uncertain_points,
)
from densevit.set_prediction.queries import MaskQueries, mask_logits

NO_OBJECT_WEIGHT = 0.1
EPS = 1e-6


@dataclass
class MaskCriterion:
    """Matching and losses after each decoder layer, and of the queries before the first (Cheng et al. 2022, 3.3).

    Void, ignored pixels and crowds have no part in the losses of masks. In the authors' code they are background.

    task: determines the target keys. num_points: the number of points of each mask. stride: the stride of the per-pixel
    embeddings. check_counts: called with the number of segments and the id of each image (`Head.warn_of_objects`).
    """

    task: Task
    num_classes: int
    num_queries: int
    num_points: int
    stride: int
    weights: MaskWeights = field(default_factory=MaskWeights)
    semantic_weight: float = 0.0
    check_counts: Callable[[list[int], list[int | str]], None] = lambda counts, images: None

    def loss_counts(self, targets: list[Targets]) -> Counts:
        """The normalisers of the losses. targets: one per image, on the CPU."""
        labelled = [target for target in targets if all(key in target for key in REQUIRED_TARGETS[self.task])]
        counts = segment_counts(labelled, self.task, self.num_classes)
        return loss_normalizers(counts, self.num_queries, NO_OBJECT_WEIGHT)

    def losses(
        self,
        outputs: MaskQueries,
        pixels: Tensor,
        targets: list[Targets],
        context: LossContext,
        generator: torch.Generator | None = None,
        cells: Tensor | None = None,
    ) -> Losses:
        """`label`, `mask` and `dice` of the last layer, and `auxiliary`, their sum over the other layers; in fp32.

        pixels: (B, C, h, w), or (L, B, C, h, w) if each layer has its own. Images without the target keys of the task
        are left out. generator: the generator of random points; by default torch's. cells: class logits (B, K, h', w')
        for the loss `semantic`; None, as in evaluation: it is 0.
        """
        labelled = [i for i, target in enumerate(targets) if all(key in target for key in REQUIRED_TARGETS[self.task])]
        with autocast_off(pixels.device):
            chosen = [targets[i] for i in labelled]
            terms = self._terms(outputs, pixels.float(), chosen, labelled, context, generator, cells)
        semantic = terms.pop("semantic", None)
        weighted = {name: w * term for (name, term), w in zip(terms.items(), self.weights, strict=True)}
        losses = {name: term[-1] for name, term in weighted.items()}
        losses["auxiliary"] = torch.stack([term[:-1].sum() for term in weighted.values()]).sum()
        if self.semantic_weight:
            losses["semantic"] = losses["label"].new_zeros(()) if semantic is None else self.semantic_weight * semantic
        return losses

    def _terms(
        self,
        outputs: MaskQueries,
        pixels: Tensor,
        targets: list[Targets],
        labelled: Sequence[int],
        context: LossContext,
        generator: torch.Generator | None,
        cells: Tensor | None,
    ) -> dict[str, Tensor]:
        """Unweighted losses, (L,) each, and `semantic`, a scalar. outputs, pixels, cells: the outputs for all images.
        labelled: the indices of the targets' images.
        """
        logits, embeddings = outputs.logits.float(), outputs.embeddings.float()
        if len(labelled) < pixels.shape[-4]:
            images = to_device(torch.tensor(labelled, dtype=torch.long), pixels.device)
            logits, embeddings = logits.index_select(1, images), embeddings.index_select(1, images)
            pixels, cells = pixels.index_select(-4, images), None if cells is None else cells.index_select(0, images)
        if not targets:  # sums over nothing, which are connected to the graph
            label, mask = logits.sum((1, 2, 3)), embeddings.sum((1, 2, 3)) + pixels.sum()
            _mean_counts(context, label, pixels.new_zeros(()))
            terms = {"label": label, "mask": mask, "dice": mask}
            return terms if cells is None else {**terms, "semantic": cells.sum()}
        outputs = MaskQueries(logits, embeddings)
        segments = MaskSegments.of(targets, self.task, self.num_classes, pixels.device)
        self.check_counts(segments.counts, segments.names)
        scales = image_shares(segments.sizes, pixels, self.stride)
        pairs = match(
            outputs, pixels, segments, scales, self.num_points, self.weights, generator, context.raise_on_non_finite
        )
        mask, dice = mask_losses(embeddings, pixels, segments, scales, pairs, self.num_points, generator)
        pairs = pairs.to(pixels.device)
        labels, classes, weights = segments.labels, segments.labelled, segments.label_weights
        cross_entropy, weight = query_cross_entropy(logits, labels, pairs, NO_OBJECT_WEIGHT, classes, weights)
        if self.task != "instance" and not all(segments.counts):  # a map without segments has no labelled pixel
            weight = weight * to_device(torch.tensor(segments.counts) > 0, pixels.device)[:, None]
        count = torch.full((), float(len(segments.labels)), device=pixels.device)
        weights, count = _mean_counts(context, weight.sum((1, 2)), count)
        losses = {"label": (cross_entropy * weight).sum((1, 2)) / weights, "mask": mask / count, "dice": dice / count}
        if cells is not None:
            losses["semantic"] = self._semantic_term(cells.float(), segments, scales, generator) / count
        return losses

    def _semantic_term(
        self, cells: Tensor, segments: MaskSegments, scales: Tensor, generator: torch.Generator | None
    ) -> Tensor:
        """Cross-entropy of the class logits at points of each segment: means over points, summed over segments.

        A small segment counts as much as a large one; a segment without a point is left out.
        """
        points = random_points(len(cells), self.num_points, cells.device, generator)
        truth = segments.at(torch.arange(len(segments.labels), device=cells.device), points[segments.image])  # (T, P)
        logits = sample(cells, points * scales[:, None], "border")  # (B, K, P)
        log_probability = logits.log_softmax(1)
        cross_entropy = -log_probability[segments.image, segments.labels]
        return ((cross_entropy * truth).sum(1) / truth.sum(1).clamp(min=1e-6)).sum()


def _mean_counts(context: LossContext, weights: Tensor, count: Tensor) -> tuple[Tensor, Tensor]:
    """Sums of class weights (L,) and the number of segments, averaged over processes."""
    weights, count = context.mean_counts(objects_weights=weights.detach(), objects=count)
    return weights.clamp(min=1e-6), count.clamp(min=context.min_normalizer())


def mask_losses(
    embeddings: Tensor,
    pixels: Tensor,
    segments: MaskSegments,
    scales: Tensor,
    pairs: MatchedPairs,
    num_points: int,
    generator: torch.Generator | None,
    padding_mode: PaddingMode = "zeros",
) -> Tensor:
    """Binary cross-entropy and dice of the matched masks of L layers at points, summed over masks: (2, L).

    embeddings: (L, B, Q, C). pixels: (B, C, h, w), or (L, B, C, h, w) of each layer. scales: (B, 2), the result of
    `image_shares`. pairs: the result of `match`, on the CPU. padding_mode: the argument of `sample`.
    """
    counts = pairs.image.bincount(minlength=len(segments.counts)).tolist()
    pairs = pairs.to(pixels.device)
    values = len(pairs.image) * max(pixels.shape[-2] * pixels.shape[-1], int(OVERSAMPLING * num_points))
    parts = [
        _mask_terms(part, embeddings, pixels, segments, scales, pairs, counts, num_points, generator, padding_mode)
        for part in chunks(len(embeddings), values)
    ]
    return torch.cat(parts, dim=1)


def _mask_terms(
    layers: slice,
    embeddings: Tensor,
    pixels: Tensor,
    segments: MaskSegments,
    scales: Tensor,
    pairs: MatchedPairs,
    counts: Sequence[int],
    num_points: int,
    generator: torch.Generator | None,
    padding_mode: PaddingMode,
) -> Tensor:
    """Binary cross-entropy and dice of the matched masks of some layers, summed over masks: (2, l).

    pixels: (B, C, h, w), or (L, B, C, h, w) of all layers. counts: pairs per image.

    Only values at points are kept for the backward pass, which computes the maps of the matched masks again.
    """
    queries, targets = pairs.query[layers], pairs.target[layers]  # (l, M)
    matched = embeddings[pairs.layer[layers], pairs.image, queries]  # (l, M, C)
    pixels = pixels[layers] if pixels.ndim == 5 else pixels
    if not queries.shape[1]:
        return (matched.sum((1, 2)) + pixels.flatten()[:0].sum()).expand(2, -1)
    scale = scales[pairs.image].repeat(len(queries), 1)  # (l * M, 2)
    with torch.no_grad():
        point_weights = functools.partial(segments.point_weights, targets.flatten())
        maps = _maps(matched, pixels, counts)
        points = uncertain_points(maps, scale, num_points, generator, point_weights, padding_mode)
        truth, weight = segments.at(targets.flatten(), points), point_weights(points)  # (l * M, P)
    options: dict[str, Any] = {"use_reentrant": False, "preserve_rng_state": False}
    x = checkpoint(_at_points, matched, pixels, counts, points * scale[:, None], padding_mode, **options)
    p = x.sigmoid()
    if weight is None:
        cross_entropy = F.binary_cross_entropy_with_logits(x, truth, reduction="none").mean(1)
    else:
        target = truth / weight.clamp(min=EPS)
        cross_entropy = F.binary_cross_entropy_with_logits(x, target, weight, reduction="none").sum(1)
        cross_entropy, p = cross_entropy / weight.sum(1).clamp(min=EPS), p * weight
    dice = 1 - (2 * (p * truth).sum(-1) + 1) / (p.sum(-1) + truth.sum(-1) + 1)
    return torch.stack([cross_entropy, dice]).view(2, len(queries), -1).sum(-1)


def image_shares(sizes: Sequence[tuple[int, int]], pixels: Tensor, stride: int) -> Tensor:
    """The share of columns and rows of the per-pixel embeddings (..., h, w) that are the image, (B, 2).

    sizes: (h, w) of the images.
    """
    h, w = pixels.shape[-2:]
    shares = [(width / (stride * w), height / (stride * h)) for height, width in sizes]
    return to_device(torch.tensor(shares, dtype=torch.float32), pixels.device)


def _maps(matched: Tensor, pixels: Tensor, counts: Sequence[int]) -> Tensor:
    """Mask logits (l * M, h, w) of matched queries (l, M, C), `counts` of each image.

    pixels: (B, C, h, w), or (l, B, C, h, w) of each layer.
    """
    images = pixels.unbind(-4)  # each (C, h, w) or (l, C, h, w)
    maps = [mask_logits(x, image) for x, image in zip(matched.split(list(counts), dim=1), images, strict=True)]
    return torch.cat(maps, dim=1).flatten(0, 1)


def _at_points(
    matched: Tensor, pixels: Tensor, counts: Sequence[int], points: Tensor, padding_mode: PaddingMode
) -> Tensor:
    """Mask logits (l * M, P) at points (l * M, P, 2), xy in 0 ... 1 of the maps."""
    return sample(_maps(matched, pixels, counts)[:, None], points, padding_mode)[:, 0]
