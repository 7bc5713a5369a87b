"""Panoptic maps of masks that are a softmax over queries, and the head class of MaX-DeepLab and kMaX-DeepLab."""

import math
from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from densevit.interfaces import VOID, Class, Head, LossContext, Losses, Outputs, Predictions, Targets
from densevit.layers.tracing import is_exporting, sides
from densevit.losses.distributed import to_device
from densevit.set_prediction import mask_predictions
from densevit.set_prediction.mask_predictions import MaskLogits, numbered_segments
from densevit.set_prediction.mask_segments import REQUIRED_TARGETS
from densevit_papers.max_deeplab_criterion import PQCriterion

MASK_THRESHOLD = 0.4  # least probability of a pixel's query
OVERLAP_THRESHOLD = 0.8  # least share of a mask that is not covered by masks before it
_LARGEST_LOGIT = 80.0


class SoftmaxMasks(MaskLogits):
    """Masks of an image with softmax probabilities over queries, as log-odds: their sigmoid is the softmax of the
    resized logits."""

    __slots__ = ()

    def resized(self, index: Tensor | None = None) -> Iterator[tuple[int, Tensor, Tensor]]:
        """Yields the log-odds of masks as `MaskLogits.resized` does.

        The softmax is over all queries, also if only some are requested.
        """
        totals: list[Rivals] = []
        for first, *sizes in super().resized():
            rivals = [Rivals.of(x, first) for x in sizes]
            totals = [old.merged(new) for old, new in zip(totals, rivals, strict=True)] if totals else rivals
        for first, *sizes in super().resized(index):
            last = first + sizes[0].shape[0]
            queries = torch.arange(first, last, device=sizes[0].device) if index is None else index[first:last]
            x, y = (each.log_odds(logits, queries) for each, logits in zip(totals, sizes, strict=True))
            yield first, x, y


class Rivals:
    """The largest logit of each pixel, its query, and the logsumexp of all other queries; (H, W) each."""

    def __init__(self, best: Tensor, query: Tensor, rest: Tensor) -> None:
        self.best, self.query, self.rest = best, query, rest

    @classmethod
    def of(cls, logits: Tensor, first: int) -> "Rivals":
        """logits: (q, H, W). first: number of the first query."""
        best, query = logits.max(0)
        is_best = torch.arange(logits.shape[0], device=logits.device)[:, None, None] == query
        return cls(best, query + first, logits.masked_fill(is_best, float("-inf")).logsumexp(0))

    def merged(self, other: "Rivals") -> "Rivals":
        better = other.best > self.best
        rest = torch.logaddexp(torch.logaddexp(self.rest, other.rest), torch.minimum(self.best, other.best))
        return Rivals(torch.maximum(self.best, other.best), torch.where(better, other.query, self.query), rest)

    def log_odds(self, logits: Tensor, queries: Tensor) -> Tensor:
        """log(p / (1 - p)) of the softmax p. logits: (q, H, W) of `queries` (q,)."""
        is_best = queries[:, None, None] == self.query
        log_probability = logits - torch.logaddexp(self.best, self.rest)
        rest = log_probability - torch.log1p(-log_probability.exp().clamp(max=0.5))  # at most 0.5, but for the best
        return torch.where(is_best, self.best - self.rest, rest).clamp(-_LARGEST_LOGIT, _LARGEST_LOGIT)


def pixelwise_panoptic(logits: Tensor, masks: MaskLogits, classes: Sequence[Class], threshold: float) -> Tensor:
    """Panoptic ids (H, W) int32: the query with the largest mask logit of each pixel (MaX-DeepLab, section 3.1).

    A pixel is void if the query's class probability is below `threshold`, or if its mask probability is at most 0.4
    among the queries above the threshold, as in the authors' code. logits: (Q, K+1).
    """
    scores, labels = logits.softmax(-1)[:, :-1].max(-1)
    detected = scores >= threshold
    best, total = (torch.full(masks.original, float("-inf"), device=logits.device) for _ in range(2))
    owner = torch.zeros(masks.original, dtype=torch.long, device=logits.device)
    for first, _, x in masks.resized():
        value, index = x.max(0)
        owner = torch.where(value > best, index + first, owner)
        best = torch.maximum(value, best)
        rejected = ~detected[first : first + x.shape[0], None, None]
        total = torch.logaddexp(total, x.masked_fill(rejected, float("-inf")).logsumexp(0))
    confident = detected[owner] & (best - total > math.log(MASK_THRESHOLD))
    owned = torch.zeros(len(scores), dtype=torch.long, device=logits.device)
    owned.scatter_add_(0, owner.flatten(), confident.flatten().long())
    ids = numbered_segments(labels, owned > 0, classes)
    return torch.where(confident, ids[owner], VOID).to(torch.int32)


def maskwise_panoptic(
    logits: Tensor, masks: SoftmaxMasks, classes: Sequence[Class], thing_threshold: float, stuff_threshold: float
) -> Tensor:
    """Panoptic ids (H, W) int32: masks are laid down in order of their scores (kMaX-DeepLab, Yu et al. 2022).

    A mask is the pixels of probability above 0.4; its score is the class probability times their mean probability.
    Masks below the class threshold are left out, and masks of which earlier masks leave at most 0.8 uncovered.
    """
    probabilities, labels = logits.softmax(-1)[:, :-1].max(-1)
    thing = to_device(torch.tensor([cls.thing for cls in classes]), labels.device)[labels]
    detected = probabilities > torch.where(thing, thing_threshold, stuff_threshold)
    # the number of masks would be a constant of a file
    kept = torch.arange(detected.shape[0], device=thing.device) if is_exporting() else detected.nonzero()[:, 0]
    covered = torch.zeros(kept.shape[0], *masks.original, dtype=torch.bool, device=logits.device)
    quality = torch.zeros(kept.shape[0], device=logits.device)
    for first, _, x in masks.resized(kept):
        p = x.sigmoid()
        mask = (p > MASK_THRESHOLD) & detected[kept[first : first + x.shape[0]], None, None]
        covered[first : first + x.shape[0]] = mask
        quality[first : first + x.shape[0]] = (p * mask).sum((1, 2)) / mask.sum((1, 2)).clamp(min=1)
    order = (probabilities[kept] * quality).argsort(descending=True, stable=True)
    owner = torch.full(masks.original, -1, device=logits.device)
    valid = []
    for i, mask in enumerate(covered[order]):
        free = mask & (owner < 0)
        valid.append(free.sum() > OVERLAP_THRESHOLD * mask.sum())
        owner = torch.where(free & valid[-1], i, owner)
    if not valid:
        return torch.full(masks.original, VOID, dtype=torch.int32, device=logits.device)
    ids = numbered_segments(labels[kept][order], torch.stack(valid), classes)
    return torch.cat([ids.new_full((1,), VOID), ids])[owner + 1].to(torch.int32)


class PanopticTransformer(Head):
    """Losses and predictions of MaX-DeepLab and kMaX-DeepLab. A subclass computes the outputs and the panoptic map.

    Outputs: `logits` (B, Q, K+1), the last class is "no object"; `masks`, mask logits (B, Q, h, w) at `mask_stride`;
    and `layers`, the arguments of `PQCriterion.losses`, and in training `cells`.
    """

    task, required_targets = "panoptic", REQUIRED_TARGETS["panoptic"]
    criterion: PQCriterion

    @property
    def mask_stride(self) -> int:
        return self.criterion.stride

    @property
    def num_queries(self) -> int:
        return self.criterion.num_queries

    def loss_counts(self, targets: list[Targets]) -> dict[str, float]:
        return self.criterion.loss_counts(targets)

    def loss(self, outputs: Outputs, targets: list[Targets], context: LossContext) -> Losses:
        """`label`, `dice`, `mask`, `instance`, `semantic` and `auxiliary`; in evaluation the last two are 0.

        Sampled pixels are random in training and the same at each call in evaluation.
        """
        generator = None if self.training else torch.Generator(outputs["logits"].device).manual_seed(0)
        return self.criterion.losses(outputs["layers"], outputs.get("cells"), targets, context, generator)

    def panoptic(self, logits: Tensor, masks: SoftmaxMasks) -> Tensor:
        """The panoptic ids (H, W) int32 of an image. logits: (Q, K+1)."""
        raise NotImplementedError

    def predictions(self, logits: Tensor, masks: SoftmaxMasks) -> Predictions:
        """`panoptic` (H, W) int32, class index * 1000 + number of the instance, -1 = void; `semantic` (H, W) uint8; and
        `masks` (N, H, W) bool, `boxes`, `labels` and `scores` of things. logits: (Q, K+1)."""
        foreground = math.log(MASK_THRESHOLD / (1 - MASK_THRESHOLD))
        return {
            "panoptic": self.panoptic(logits, masks),
            "semantic": mask_predictions.semantic(logits, masks),
            **mask_predictions.instances(logits, masks, self.classes, things=True, foreground_logit=foreground),
        }

    @torch.no_grad()
    def predict(self, outputs: Outputs, targets: list[Targets]) -> list[Predictions]:
        return [
            self.predictions(logits, self._masks(masks, self.mask_stride, target, outputs.get("lowest_score", 0.0)))
            for logits, masks, target in zip(outputs["logits"].float(), outputs["masks"], targets, strict=True)
        ]

    def exported(
        self, outputs: Outputs, size: tuple[int, int], original_size: tuple[int, int] | None = None
    ) -> dict[str, Tensor]:
        """`scores` (B, Q, K) and `mask_logits` (B, Q, H, W), log-odds; and `semantic` (B, H, W) uint8, and its class
        scores `maps` (B, K, H, W)."""
        sizes = (size, original_size)
        queries = mask_predictions.exported_queries(outputs, self.mask_stride, *sizes, self.criterion.align_corners)
        x = queries["mask_logits"].transpose(0, 1).flatten(1, 2)  # (Q, B * H, W)
        odds = Rivals.of(x, 0).log_odds(x, torch.arange(x.shape[0], device=x.device))
        queries["mask_logits"] = odds.unflatten(1, (-1, queries["mask_logits"].shape[2])).transpose(0, 1)
        return {**queries, **mask_predictions.exported_maps(**queries)}

    @torch.no_grad()
    def predict_exported(self, exported: Mapping[str, Tensor], targets: list[Targets]) -> list[Predictions]:
        """The predictions of `predict` from the outputs of `exported`."""
        predictions = []
        for scores, odds, target in zip(exported["scores"], exported["mask_logits"], targets, strict=True):
            masks = self._masks(F.logsigmoid(odds.float()), 1, target)
            predictions.append(self.predictions(mask_predictions.class_logits(scores.float()), masks))
        return predictions

    def _masks(self, logits: Tensor, stride: int, target: Targets, lowest_score: Tensor | float = 0.0) -> SoftmaxMasks:
        aligned = self.criterion.align_corners
        return SoftmaxMasks(logits.float(), stride, *_sizes(target), lowest_score, aligned)


def check_threshold(**thresholds: float) -> None:
    """Raises ValueError unless each is a probability."""
    for option, value in thresholds.items():
        if not 0 <= value <= 1:
            raise ValueError(f"{option} is {value:g}; expected a probability from 0 to 1.")


def _sizes(target: Targets) -> tuple[tuple[int, int], tuple[int, int]]:
    """(h, w) of the image in the network's input, and of the image file."""
    return sides(target["size"]), sides(target["original_size"])
