"""The loss of MaX-DeepLab (Wang et al. 2021, sections 3.2 and 3.4), and of kMaX-DeepLab (Yu et al. 2022) with two
differences: a pixel-contrastive loss in place of instance discrimination, and a semantic loss at sampled pixels."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from densevit.interfaces import Class, Losses, Targets
from densevit.layers.precision import at_least_fp32, autocast_off
from densevit.losses.context import Counts, LossContext
from densevit.losses.distributed import to_device
from densevit.set_prediction.limits import check_weights
from densevit.set_prediction.mask_segments import REQUIRED_TARGETS
from densevit_papers.kmax_deeplab_losses import Sampling, pixel_contrast, sampled_cells
from densevit_papers.max_deeplab_auxiliary_losses import instance_discrimination, mask_id_term, semantic_term
from densevit_papers.max_deeplab_masks import GridTruth, MaskOutputs
from densevit_papers.max_deeplab_pq_loss import Match, dice_term, label_term, match


@dataclass(frozen=True)
class MaskLossWeights:
    """Weights of the losses: PQ-style, mask-ID cross-entropy, instance discrimination and semantic; the paper's."""

    pq: float = 3.0
    mask_id: float = 0.3
    instance: float = 1.0
    semantic: float = 1.0

    def __post_init__(self) -> None:
        check_weights(vars(self))

    def by_term(self) -> dict[str, float]:
        """The weights of the terms of a layer. Both terms of the PQ-style loss have its weight."""
        return {"label": self.pq, "dice": self.pq, "mask": self.mask_id, "instance": self.instance}


@dataclass
class PQCriterion:
    """PQ-style matching of the last layer, and losses after each layer with that matching.

    stride: the stride of the masks in pixels. sampling: the options of kMaX-DeepLab's losses at sampled pixels; None:
    MaX-DeepLab's losses.
    void_weighting: the class loss of an unmatched query is weighted by the share of its mask on unlabelled cells, at
    least 1e-5, as in the code of both papers; False: by 1, as in MaX-DeepLab's paper.
    align_corners: cells of masks are at their first pixels, instead of at their centres. check_counts: called with the
    number of segments and the id of each image (`Head.warn_of_objects`).
    """

    classes: Sequence[Class]
    num_queries: int
    stride: int
    weights: MaskLossWeights
    sampling: Sampling | None = None
    void_weighting: bool = False
    align_corners: bool = False
    check_counts: Callable[[list[int], list[int | str]], None] = lambda counts, images: None

    def loss_counts(self, targets: list[Targets]) -> Counts:
        """The normaliser of the losses, the number of labelled images. Losses are first averaged within each image."""
        return {"images": float(len(self._labelled(targets, torch.device("cpu"))))}

    def losses(
        self,
        layers: Sequence[MaskOutputs],
        cells: Tensor | None,
        targets: list[Targets],
        context: LossContext,
        generator: torch.Generator | None = None,
    ) -> Losses:
        """`label` and `dice`, the two terms of the PQ-style loss, `mask`, the mask-ID cross-entropy, and `instance` of
        the last layer; `semantic`; and `auxiliary`, the sum over the other layers; in fp32.

        cells: class logits (B, K, h, w), or None. generator: the generator of sampled pixels; None: torch's.
        """
        *_, last = layers
        with autocast_off(last.logits.device):
            matches = self._match(last, targets, context.raise_on_non_finite)
            terms = [self._layer_terms(layer, matches, generator) for layer in layers]
            semantic = _zero(last.logits) if cells is None else self._semantic_sum(cells, matches, generator)
            [count] = context.mean_counts(images=torch.full((), float(len(matches)), device=last.logits.device))
            return self._weighted(terms, semantic, count.clamp(min=context.min_normalizer()))

    def _weighted(self, terms: Sequence[Mapping[str, Tensor]], semantic: Tensor, count: Tensor) -> Losses:
        """The losses. terms: sums over images for each layer. count: the normaliser."""
        weights = self.weights.by_term()
        weighted = [{name: weights[name] * value / count for name, value in layer.items()} for layer in terms]
        *earlier, last = weighted
        auxiliary = [value for layer in earlier for value in layer.values()]
        losses = {**last, "semantic": self.weights.semantic * semantic / count}
        losses["auxiliary"] = torch.stack(auxiliary).sum() if auxiliary else 0 * losses["label"]
        return losses

    def _match(self, last: MaskOutputs, targets: Sequence[Targets], strict: bool) -> dict[int, Match]:
        """The matched pairs of each image with segments, by image index."""
        truths = self._labelled(targets, last.logits.device)
        self.check_counts([len(truth.labels) for truth in truths.values()], [truth.name for truth in truths.values()])
        outputs = [last.for_image(i, truth.size) for i, truth in truths.items()]
        return dict(zip(truths, match(outputs, [*truths.values()], strict), strict=True))

    def _labelled(self, targets: Sequence[Targets], device: torch.device) -> dict[int, GridTruth]:
        """The segments of each image with segments, by image index. Images without segments have no labelled cell."""
        indices = [i for i, target in enumerate(targets) if all(key in target for key in REQUIRED_TARGETS["panoptic"])]
        labelled = [targets[i] for i in indices]
        truths = GridTruth.of(labelled, len(self.classes), self.stride, device, self.align_corners)
        return {i: truth for i, truth in zip(indices, truths, strict=True) if len(truth.labels)}

    def _layer_terms(
        self, layer: MaskOutputs, matches: Mapping[int, Match], generator: torch.Generator | None
    ) -> dict[str, Tensor]:
        """The unweighted losses of a layer, summed over images."""
        images = [
            self.terms(layer.for_image(i, matched.segments.size), matched, generator) for i, matched in matches.items()
        ]
        zero = _zero(*layer)
        return {name: sum((terms[name] for terms in images), zero) for name in self.weights.by_term()}

    def _semantic_sum(self, cells: Tensor, matches: Mapping[int, Match], generator: torch.Generator | None) -> Tensor:
        """The unweighted semantic loss, summed over images. cells: (B, K, h, w)."""
        images = (
            self.semantic_term(at_least_fp32(cells[i, :, :h, :w].flatten(1)), matched.segments, generator)
            for i, matched in matches.items()
            for h, w in [matched.segments.size]
        )
        return sum(images, _zero(cells))

    def terms(self, x: MaskOutputs, matched: Match, generator: torch.Generator | None = None) -> dict[str, Tensor]:
        """The unweighted losses of a layer for an image. x: (Q, K+1), (Q, P) and (C, P)."""
        instance = self.instance_term(x.features, matched.segments, generator)
        log_m_hat = x.masks.log_softmax(dim=0)
        return {
            "label": label_term(x.logits, matched, self.void_weighting),
            "dice": dice_term(log_m_hat.exp(), matched),
            "mask": mask_id_term(log_m_hat, matched),
            "instance": instance,
        }

    def instance_term(self, g: Tensor, truth: GridTruth, generator: torch.Generator | None = None) -> Tensor:
        """Instance discrimination, or the contrast of sampled pixels. g: features (C, P)."""
        if self.sampling is None:
            things = to_device(torch.tensor([cls.thing for cls in self.classes]), truth.labels.device)
            return instance_discrimination(g, truth, things[truth.labels])
        drawn = sampled_cells(truth, self.sampling.count, self.sampling.instance, generator)
        return pixel_contrast(g[:, drawn], truth.at(drawn))

    def semantic_term(self, cells: Tensor, truth: GridTruth, generator: torch.Generator | None = None) -> Tensor:
        """Cross-entropy of class logits (K, P) at labelled cells, or at sampled labelled cells."""
        if self.sampling is None:
            return semantic_term(cells, truth)
        drawn = sampled_cells(truth, self.sampling.count, self.sampling.semantic, generator)
        return semantic_term(cells[:, drawn], truth.at(drawn))


def _zero(*tensors: Tensor) -> Tensor:
    """0 in fp32, connected to the tensors."""
    return torch.stack([x.flatten()[:0].sum().float() for x in tensors]).sum()
