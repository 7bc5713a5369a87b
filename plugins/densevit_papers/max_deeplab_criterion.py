"""PQ-style matching and losses of masks that are a softmax over queries (MaX-DeepLab, Wang et al. 2021, sections 3.2
and 3.4).

The losses of MaX-DeepLab, and of kMaX-DeepLab (Yu et al. 2022) with two differences: a pixel-contrastive loss in place
of instance discrimination, and a semantic loss at sampled pixels.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from densevit.interfaces import LABEL_DIVISOR, Class, Dataset, Losses, Targets
from densevit.layers.precision import at_least_fp32, autocast_off
from densevit.losses.context import Counts, LossContext
from densevit.losses.distributed import to_device
from densevit.losses.matching import assign
from densevit.set_prediction.limits import check_counts, check_weights
from densevit.set_prediction.mask_segments import NEEDS, segment_ids
from densevit.set_prediction.queries import QueryLimit

ALPHA = 0.75  # weight of matched queries in the PQ-style loss; 1 - ALPHA: of the others
TEMPERATURE = 0.3  # of the instance discrimination
LEAST_WEIGHT = 1e-5  # of the class of a query and of the dice of a mask
_EPS = 1e-5  # of areas


@dataclass(frozen=True)
class MaskLossWeights:
    """Weights of the losses: PQ-style, mask-ID cross-entropy, instance discrimination and semantic; the paper's."""

    pq: float = 3.0
    mask_id: float = 0.3
    instance: float = 1.0
    semantic: float = 1.0

    def __post_init__(self) -> None:
        check_weights(vars(self))


@dataclass(frozen=True)
class Sampling:
    """kMaX-DeepLab's pixels of the instance and the semantic loss. count: the pixels drawn per image, in both losses.

    A pixel is drawn with a probability proportional to its segment's area to the power of minus `instance` or
    `semantic`: above 1, small segments get more pixels than large ones.
    """

    count: int = 4096
    instance: float = 1.5
    semantic: float = 2.0

    def __post_init__(self) -> None:
        check_counts({"count": self.count})


class GridTruth(NamedTuple):
    """The N segments of an image at the h x w cells of its masks. masks: (N, h * w) bool. labels: (N,)."""

    masks: Tensor
    labels: Tensor
    size: tuple[int, int]
    name: int | str

    @classmethod
    def of(cls, targets: Sequence[Targets], num_classes: int, stride: int, device: torch.device) -> "list[GridTruth]":
        """The segments of panoptic maps, read at the centre pixel of each cell; void and crowds belong to none.

        Segments without a cell centre are left out, as in the authors' code. One transfer to the CPU.
        """
        maps = [_at_centres(to_device(target["panoptic"], device), stride) for target in targets]
        truths = []
        ids = segment_ids(maps, targets, "panoptic", num_classes)
        for i, (cells, row, target) in enumerate(zip(maps, ids, targets, strict=True)):
            each = to_device(torch.tensor(row, dtype=torch.long), device)
            masks = cells.flatten() == each[:, None]
            size = (cells.shape[0], cells.shape[1])
            truths.append(cls(masks, each // LABEL_DIVISOR, size, target.get("image_id", i)))
        return truths

    def select(self, segments: Tensor) -> "GridTruth":
        return self._replace(masks=self.masks[segments], labels=self.labels[segments])

    @property
    def labelled(self) -> Tensor:
        """Whether a cell belongs to a segment, (h * w,) bool."""
        return self.masks.any(0)


class MaskOutputs(NamedTuple):
    """Predictions of one layer for one image. logits: (Q, K+1), the last class is "no object". masks: mask logits
    (Q, P), a softmax over the queries. features: (C, P), normalised per-pixel features."""

    logits: Tensor
    masks: Tensor
    features: Tensor


class Match(NamedTuple):
    """The matched pairs of an image, in the order of segments, and the weights of their losses.

    query: (M,). segments: the indices of the M segments in the truth. class_probability, dice: (M,), of the pairs.
    void: (Q,), the share of each query's mask on cells of no segment.
    """

    query: Tensor
    segments: GridTruth
    class_probability: Tensor
    dice: Tensor
    void: Tensor


@dataclass
class PQCriterion:
    """PQ-style matching of the last layer, and losses after each layer with that matching.

    stride: the stride of the masks in pixels. sampling: the options of kMaX-DeepLab's losses at sampled pixels; None:
    MaX-DeepLab's losses.
    void_weighting: the class loss of an unmatched query is weighted by the share of its mask on unlabelled cells, at
    least 1e-5, as in the code of both papers; False: by 1, as in MaX-DeepLab's paper.
    """

    classes: Sequence[Class]
    num_queries: int
    stride: int
    weights: MaskLossWeights
    sampling: Sampling | None = None
    void_weighting: bool = False
    _limit: QueryLimit = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self._limit = QueryLimit(self.num_queries, "segments")

    def check(self, dataset: Dataset) -> None:
        """Warns if an image of the data set has more segments than there are queries."""
        self._limit.check_data(dataset.object_counts())

    def loss_counts(self, targets: list[Targets]) -> Counts:
        """The normaliser of the losses, the number of labelled images. Losses are first averaged within each image."""
        return {"images": float(len(self._labelled(targets, torch.device("cpu"))))}

    def losses(
        self,
        layers: Sequence[tuple[Tensor, Tensor, Tensor]],
        cells: Tensor | None,
        targets: list[Targets],
        context: LossContext,
        generator: torch.Generator | None = None,
    ) -> Losses:
        """`label` and `dice`, the two terms of the PQ-style loss, `mask`, the mask-ID cross-entropy, and `instance` of
        the last layer; `semantic`; and `auxiliary`, the sum over the other layers; in fp32.

        layers: `MaskOutputs` of a batch: (B, Q, K+1), (B, Q, h, w), (B, C, h, w). cells: class logits (B, K, h, w), or
        None. generator: the generator of sampled pixels; None: torch's.
        """
        logits = layers[-1][0]
        with autocast_off(logits.device):
            labelled = self._labelled(targets, logits.device)
            indices, truths = [*labelled], [*labelled.values()]
            self._limit.check_batch([len(truth.labels) for truth in truths], [truth.name for truth in truths])
            parts = [_image_outputs(layers[-1], i, truth.size) for i, truth in zip(indices, truths, strict=True)]
            matches = match(parts, truths, context.raise_on_non_finite)
            terms = [self._layer_terms(layer, indices, matches, generator) for layer in layers]
            semantic = _zero(logits) if cells is None else self._semantic_sum(cells, indices, matches, generator)
            [count] = context.mean_counts(images=torch.full((), float(len(indices)), device=logits.device))
            count = count.clamp(min=context.min_normalizer())
            weights = self.weights
            by_name = {"label": weights.pq, "dice": weights.pq, "mask": weights.mask_id, "instance": weights.instance}
            weighted = [
                {name: by_name[name] * value / count for name, value in layer_terms.items()} for layer_terms in terms
            ]
            auxiliary = [value for layer_terms in weighted[:-1] for value in layer_terms.values()]
            losses = {**weighted[-1], "semantic": weights.semantic * semantic / count}
            losses["auxiliary"] = torch.stack(auxiliary).sum() if auxiliary else 0 * losses["label"]
            return losses

    def _labelled(self, targets: Sequence[Targets], device: torch.device) -> dict[int, GridTruth]:
        """The segments of each image with segments, by image index. Images without segments have no labelled cell."""
        indices = [i for i, target in enumerate(targets) if all(key in target for key in NEEDS["panoptic"])]
        truths = GridTruth.of([targets[i] for i in indices], len(self.classes), self.stride, device)
        return {i: truth for i, truth in zip(indices, truths, strict=True) if len(truth.labels)}

    def _layer_terms(
        self,
        layer: tuple[Tensor, Tensor, Tensor],
        indices: Sequence[int],
        matches: Sequence[Match],
        generator: torch.Generator | None,
    ) -> dict[str, Tensor]:
        """The unweighted losses of a layer, summed over the images `indices`."""
        sums = dict.fromkeys(("label", "dice", "mask", "instance"), _zero(*layer))
        for i, matched in zip(indices, matches, strict=True):
            for name, value in self.terms(_image_outputs(layer, i, matched.segments.size), matched, generator).items():
                sums[name] = sums[name] + value
        return sums

    def _semantic_sum(
        self,
        cells: Tensor,
        indices: Sequence[int],
        matches: Sequence[Match],
        generator: torch.Generator | None,
    ) -> Tensor:
        """The unweighted semantic loss, summed over the images `indices`."""
        total = _zero(cells)
        for i, matched in zip(indices, matches, strict=True):
            h, w = matched.segments.size
            x = at_least_fp32(cells[i, :, :h, :w].flatten(1))
            total = total + self.semantic_term(x, matched.segments, generator)
        return total

    def terms(self, x: MaskOutputs, matched: Match, generator: torch.Generator | None = None) -> dict[str, Tensor]:
        """The unweighted losses of a layer for an image."""
        truth = matched.segments
        if self.sampling is None:
            instance = instance_discrimination(x.features, truth, self._things(truth))
        else:
            chosen = sampled_cells(truth, self.sampling.count, self.sampling.instance, generator)
            instance = pixel_contrast(x.features[:, chosen], truth.masks[:, chosen])
        log_probability = x.masks.log_softmax(0)
        return {
            "label": self.label_term(x.logits, matched),
            "dice": dice_term(log_probability.exp() * truth.labelled, matched),
            "mask": mask_id_term(log_probability, matched),
            "instance": instance,
        }

    def label_term(self, logits: Tensor, matched: Match) -> Tensor:
        """Cross-entropy of classes, weighted by the dice of matched masks: a mean over queries."""
        classes = torch.full_like(logits[:, 0], logits.shape[1] - 1, dtype=torch.long)
        weight = matched.void.clamp(min=LEAST_WEIGHT) if self.void_weighting else torch.ones_like(matched.void)
        weight = (1 - ALPHA) * weight
        classes[matched.query] = matched.segments.labels
        weight[matched.query] = ALPHA * matched.dice.clamp(min=LEAST_WEIGHT)
        return (weight * F.cross_entropy(logits, classes, reduction="none")).mean()

    def semantic_term(self, cells: Tensor, truth: GridTruth, generator: torch.Generator | None = None) -> Tensor:
        """Cross-entropy of class logits (K, P) at labelled cells, or at sampled labelled cells."""
        labelled = truth.labelled
        classes = (truth.masks * truth.labels[:, None]).sum(0)  # (P,); segments do not overlap
        if self.sampling is not None:
            chosen = sampled_cells(truth, self.sampling.count, self.sampling.semantic, generator)
            cells, classes, labelled = cells[:, chosen], classes[chosen], labelled[chosen]
        return _mean(F.cross_entropy(cells.T, classes, reduction="none"), labelled)

    def _things(self, truth: GridTruth) -> Tensor:
        table = to_device(torch.tensor([cls.thing for cls in self.classes]), truth.labels.device)
        return table[truth.labels]


@torch.no_grad()
def match(outputs: Sequence[MaskOutputs], truths: Sequence[GridTruth], strict: bool = True) -> list[Match]:
    """Matches segments to queries with the largest total similarity: class probability times dice.

    Segments in excess of the queries stay unmatched; their cells count as unlabelled. strict: the argument of
    `densevit.losses.matching.assign`. One transfer to the CPU.
    """
    pairs = [
        (x.logits.softmax(-1)[:, truth.labels].T, dice(x.masks, truth))
        for x, truth in zip(outputs, truths, strict=True)
    ]
    costs = [-(classes * overlaps) for classes, overlaps in pairs]  # (N, Q) each
    if not costs:
        return []
    counts, names = [len(cost) for cost in costs], [truth.name for truth in truths]
    assigned = assign(torch.cat(costs)[None], counts, names, strict)  # on the CPU
    matches, first = [], 0
    for image, (x, truth, (classes, overlaps)) in enumerate(zip(outputs, truths, pairs, strict=True)):
        matched = assigned.image == image
        rows, columns = (
            to_device(side[0, matched], classes.device) for side in (assigned.target - first, assigned.query)
        )
        first += counts[image]
        kept = truth.select(rows)
        p = x.masks.softmax(0)
        void = (p @ (~kept.labelled).to(p.dtype)) / (p.sum(1) + _EPS)
        matches.append(Match(columns, kept, classes[rows, columns], overlaps[rows, columns], void))
    return matches


def dice(masks: Tensor, truth: GridTruth) -> Tensor:
    """Dice coefficients of segments and masks, (N, Q), over labelled cells. masks: logits (Q, P)."""
    p, t = masks.softmax(0) * truth.labelled, truth.masks.to(masks.dtype)
    return (t @ p.T) / ((t.sum(1)[:, None] + p.sum(1)) / 2 + _EPS)


def dice_term(p: Tensor, matched: Match) -> Tensor:
    """Dice losses of matched masks, weighted by their class probabilities: the sum over Q.

    p: mask probabilities (Q, P), 0 at unlabelled cells.
    """
    t = matched.segments.masks.to(p.dtype)
    x = p[matched.query]
    each = 1 - (2 * (x * t).sum(1) + 1) / (x.sum(1) + t.sum(1) + 1)
    return ALPHA * (matched.class_probability.clamp(min=LEAST_WEIGHT) * each).sum() / len(p)


def mask_id_term(log_probability: Tensor, matched: Match) -> Tensor:
    """Cross-entropy of each labelled cell's query: a mean over these cells.

    log_probability: (Q, P), of the mask logits.
    """
    t = matched.segments.masks.to(log_probability.dtype)
    return _mean(-(log_probability[matched.query] * t).sum(0), matched.segments.labelled)


def instance_discrimination(features: Tensor, truth: GridTruth, things: Tensor) -> Tensor:
    """Cross-entropy of the segment of each cell of a thing, by the similarity to the segments' mean features
    (MaX-DeepLab, section 3.4).

    features: (C, P), normalised. things: (N,) bool, of the segments. A mean over the cells of things, as in the
    authors' code.
    """
    t = truth.masks.to(features.dtype)
    means = F.normalize(t @ features.T / t.sum(1, keepdim=True).clamp(min=1), dim=1)  # (N, C)
    log_probability = (means @ features / TEMPERATURE).log_softmax(0)  # (N, P)
    return _mean(-(log_probability * t).sum(0), (truth.masks & things[:, None]).any(0))


def pixel_contrast(features: Tensor, masks: Tensor) -> Tensor:
    """Cross-entropy over pairs of pixels, with pairs of the same segment as equally likely targets (CMT-DeepLab, Yu et
    al. 2022; used by kMaX-DeepLab). features: (C, P), normalised. masks: (N, P) bool.
    """
    labelled = masks.any(0)
    t = masks.to(features.dtype)
    same = t.T @ t  # (P, P)
    same = same / same.sum(0).clamp(min=1)
    similarity = features.T @ features / TEMPERATURE
    similarity = similarity.masked_fill(~labelled[:, None], torch.finfo(similarity.dtype).min)
    return _mean(-(same * similarity.log_softmax(0)).sum(0), labelled)


@torch.no_grad()
def sampled_cells(truth: GridTruth, count: int, temperature: float, generator: torch.Generator | None) -> Tensor:
    """Indices of at most `count` cells, drawn without repetition, labelled ones first (Gumbel top-k).

    The logits are `temperature` times the logarithm of 1 / area of the cell's segment.
    """
    areas = truth.masks.sum(1).clamp(min=1)  # (N,)
    area = (truth.masks * areas[:, None]).sum(0).clamp(min=1).float()  # (P,)
    noise = torch.rand(area.shape, generator=generator, device=area.device).clamp(1e-20, 1 - 1e-7)
    scores = -temperature * area.log() - (-noise.log()).log()
    scores = scores.masked_fill(~truth.labelled, float("-inf"))
    return scores.topk(min(count, len(area))).indices


def _at_centres(panoptic: Tensor, stride: int) -> Tensor:
    """The ids at the centre of each cell, or at the image's last pixel if the centre is outside the image."""
    for axis, side in enumerate(panoptic.shape):
        index = torch.arange(0, side, stride, device=panoptic.device) + stride // 2
        panoptic = panoptic.index_select(axis, index.clamp(max=side - 1))
    return panoptic


def _image_outputs(layer: tuple[Tensor, Tensor, Tensor], image: int, size: tuple[int, int]) -> MaskOutputs:
    """The predictions of an image without padding, in at least fp32. size: (h, w) of its masks."""
    (logits, masks, features), (h, w) = layer, size
    maps = (at_least_fp32(x[image, :, :h, :w].flatten(1)) for x in (masks, features))
    return MaskOutputs(at_least_fp32(logits[image]), *maps)


def _zero(*tensors: Tensor) -> Tensor:
    """0 in fp32, connected to the tensors."""
    return torch.stack([x.flatten()[:0].sum().float() for x in tensors]).sum()


def _mean(values: Tensor, where: Tensor) -> Tensor:
    """Mean of (P,) values; 0 if there are none."""
    return (values * where).sum() / where.sum().clamp(min=1)
