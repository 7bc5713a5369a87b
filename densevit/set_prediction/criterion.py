"""The criterion of the DETR family: bipartite matching, and the losses of matched predictions."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from densevit.interfaces import Dataset, Losses, Outputs, Targets
from densevit.losses.context import Counts, LossContext
from densevit.losses.dense_detection import dense_detection
from densevit.losses.distributed import to_device
from densevit.losses.matching import Matches, MatchingCosts, Objects, hungarian
from densevit.losses.set_losses import Classification, SetLosses, set_counts, set_losses
from densevit.set_prediction.denoising import NoisedObjects
from densevit.set_prediction.limits import QueryLimit, check_weights


@dataclass(frozen=True)
class LossWeights:
    """Weights of the terms of `SetLosses`; the defaults are DETR's."""

    label: float = 1.0
    l1: float = 5.0
    giou: float = 2.0

    def __post_init__(self) -> None:
        check_weights(vars(self))


@dataclass
class SetCriterion:
    """Bipartite matching and losses after each decoder layer (Carion et al. 2020, section 3.1).

    num_queries: the number of predictions of an image, for a warning if an image has more objects.
    classification: "softmax" with a no-object class, "focal" (Deformable DETR), "varifocal" (VarifocalNet),
        "varifocal_matched", which has no class loss of matched predictions that do not overlap their object (RT-DETR),
        or "mal" (DEIM).
    no_object_weight: weight of "no object" in the class loss, for "softmax" only.
    auxiliary: a loss after each layer instead of the last only. denoising: whether there are denoising queries.
    dense_weight: weight of the one-to-many loss on all cells; 0: none.
    class_proposals: proposals learn the class of their object (DINO) instead of objects against background.
    """

    num_queries: int
    costs: MatchingCosts
    weights: LossWeights
    classification: Classification
    no_object_weight: float = 0.1
    auxiliary: bool = True
    denoising: bool = False
    dense_weight: float = 0.0
    class_proposals: bool = False
    _limit: QueryLimit = field(init=False, repr=False)

    def __post_init__(self) -> None:
        note = f", and no image can get more than {self.num_queries} predictions"
        self._limit = QueryLimit(self.num_queries, "objects", note)

    def check(self, dataset: Dataset) -> None:
        """Warns if an image of the data set has more objects than there are queries."""
        self._limit.check_data(dataset.object_counts())

    def loss_counts(self, objects: list[int], denoising: NoisedObjects | None = None) -> Counts:
        """What the losses are divided by; all but `dense`, which depends on predictions.

        objects: the number of objects of each labelled image. denoising: makes the denoising queries, if there are any.
        """
        counts = set_counts(objects, self.num_queries, no_object_weight=self.no_object_weight)
        counts["proposals"] = counts["objects"]
        if denoising is not None:
            counts["denoising"] = denoising.groups_of(objects) * counts["objects"]
            counts["denoising_weights"] = counts["denoising"] * (1 + self.no_object_weight * denoising.negatives)
        return counts

    def losses(self, outputs: Outputs, targets: list[Targets], context: LossContext) -> Losses:
        """`label`, `l1` and `giou` of the last layer, `auxiliary`, the sum of the others, and by output those below.

        outputs: `layers`, logits (L, B, Q, K+1), or K unless `classification` is "softmax", and boxes (L, B, Q, 4)
        cxcywh; optionally `proposals`, logits (B, S, K) and boxes (B, S, 4), as in `proposal_loss`; and in
        training `objects`, if already collected, `denoising` of `DenoisingQueries.split`, and `dense`, the arguments of
        `dense_detection`.
        `matches`: those of `match`, if already found.
        """
        logits, boxes = outputs["layers"]
        objects = outputs.get("objects")
        labelled = Labelled.of(targets, Objects.of(targets, logits.device) if objects is None else objects)
        objects = labelled.objects
        self._limit.check_batch(objects.counts, objects.names)
        logits, boxes = labelled.select((logits, boxes), dim=1)
        if not self.auxiliary:
            logits, boxes = logits[-1:], boxes[-1:]
        matches: Matches | None = outputs.get("matches")
        if matches is not None:  # of all images of the batch
            matches = matches._replace(image=objects.image[matches.target])
        terms = self.losses_per_layer(logits, boxes, objects, context, matches)
        losses = {name: term[-1] for name, term in terms.items()}
        if self.auxiliary:
            losses["auxiliary"] = torch.stack([term[:-1].sum() for term in terms.values()]).sum()
        if "proposals" in outputs:
            logits, boxes = labelled.select(outputs["proposals"])
            losses["proposals"] = self.proposal_loss(logits, boxes, objects, context)
        zero = outputs["logits"].new_zeros(())
        if self.denoising:
            found = outputs.get("denoising")  # in training only
            losses["denoising"] = zero if found is None else self.denoising_loss(found, objects, context)
        if self.dense_weight:
            cells = outputs.get("dense")
            losses["dense"] = zero if cells is None else self.dense_loss(labelled.select(cells), objects, context)
        return losses

    def match(self, outputs: Outputs, objects: Objects, strict: bool) -> Matches:
        """Bipartite matching of the layers that have a loss: all, or the last if not `auxiliary`.

        outputs: `layers`, as in `losses`. objects: the objects of all images of the batch. strict: the argument of
        `assign`.
        """
        logits, boxes = outputs["layers"]
        if not self.auxiliary:
            logits, boxes = logits[-1:], boxes[-1:]
        return self._match(logits, boxes, objects, strict)

    def _match(self, logits: Tensor, boxes: Tensor, objects: Objects, strict: bool) -> Matches:
        return hungarian(logits, boxes, objects, self.costs, self.classification == "softmax", strict)

    def losses_per_layer(
        self,
        logits: Tensor,
        boxes: Tensor,
        objects: Objects,
        context: LossContext,
        matches: Matches | None = None,
        counts_of: str = "objects",
    ) -> Losses:
        """`label`, `l1` and `giou` of each layer, (L,) each. logits: (L, B, Q, K). boxes: (L, B, Q, 4).

        matches: the matches, if they were computed already. counts_of: the argument of `set_losses`.
        """
        matches = self._match(logits, boxes, objects, context.finite_costs) if matches is None else matches
        return self._weighted(
            set_losses(
                logits,
                boxes,
                objects,
                matches,
                context,
                self.classification,
                self.no_object_weight,
                counts_of=counts_of,
            )
        )

    def proposal_loss(self, logits: Tensor, boxes: Tensor, objects: Objects, context: LossContext) -> Tensor:
        """The loss of proposals. Their targets are binary (Deformable DETR, A.4), each object has class 0, unless
        `class_proposals` is on.
        """
        if not self.class_proposals:
            objects = objects._replace(labels=objects.labels.new_zeros(len(objects.labels)))
        terms = self.losses_per_layer(logits[None], boxes[None], objects, context, counts_of="proposals")
        label, l1, giou = terms.values()
        return label.sum() + l1.sum() + giou.sum()

    def denoising_loss(self, predictions: Sequence[Tensor], objects: Objects, context: LossContext) -> Tensor:
        """Reconstruction loss of denoising queries, which need no matching, summed over layers and terms.

        predictions: logits (L, R, K), boxes (L, R, 4) and target (P,): the object of each of the first P queries; the
        others learn "no object" (DINO, section 3.3). Normalised by P, averaged over processes.
        """
        logits, boxes, target = predictions
        L, P = len(logits), len(target)
        layer = torch.arange(L, device=target.device).repeat_interleave(P)
        query = torch.arange(P, device=target.device).repeat(L)
        matches = Matches(layer, torch.zeros_like(layer), query, target.repeat(L))
        count = torch.full((), float(P), device=target.device)
        logits, boxes = logits[:, None], boxes[:, None]  # as of one image
        terms = set_losses(
            logits, boxes, objects, matches, context, self.classification, self.no_object_weight, count, "denoising"
        )
        return torch.stack([term.sum() for term in self._weighted(terms).values()]).sum()

    def dense_loss(self, cells: Sequence[Tensor], objects: Objects, context: LossContext) -> Tensor:
        """One-to-many loss of a prediction per cell: logits, boxes, centres and padding as in `dense_detection`."""
        logits, boxes, centres, padding = cells
        terms = dense_detection(logits, boxes, centres, padding, objects, context)
        return self.dense_weight * torch.stack(list(self._weighted(terms).values())).sum()

    def _weighted(self, terms: SetLosses) -> Losses:
        return {name: getattr(self.weights, name) * term for name, term in terms._asdict().items()}


def object_counts(targets: list[Targets]) -> list[int]:
    """The number of objects of each labelled image."""
    return [len(target["boxes"]) for target in targets if "boxes" in target and "labels" in target]


class Labelled(NamedTuple):
    """The labelled images of a batch.

    objects: the objects of these images. images: the images' indices, or None if all are labelled.
    """

    objects: Objects
    images: Tensor | None

    @classmethod
    def of(cls, targets: list[Targets], objects: Objects) -> "Labelled":
        """Selects the labelled images. objects: the objects of all targets."""
        labelled = [i for i, target in enumerate(targets) if "boxes" in target and "labels" in target]
        if len(labelled) == len(targets):
            return cls(objects, None)
        images = to_device(torch.tensor(labelled, dtype=torch.long), objects.boxes.device)
        return cls(objects.select(labelled), images)

    def select(self, values: Sequence[Tensor], dim: int = 0) -> list[Tensor]:
        """The values of labelled images; `dim` is the dimension of the batch."""
        return list(values) if self.images is None else [x.index_select(dim, self.images) for x in values]
