"""The criterion of DETR's successors: bipartite matching, the losses of matched predictions, and further losses."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from densevit.interfaces import Losses, Outputs, Targets
from densevit.losses.context import Counts, LossContext
from densevit.losses.dense_detection import dense_detection
from densevit.losses.hungarian_loss import HungarianLoss
from densevit.losses.labelled_objects import LabelledObjects
from densevit.losses.matching import MatchedPairs, Objects, hungarian
from densevit.losses.set_losses import Classification, set_losses
from densevit.set_prediction.denoising import NoisedObjects


@dataclass
class SetCriterion(HungarianLoss):
    """`HungarianLoss` without softmax, with denoising queries, proposals and a dense loss.

    denoising: makes the denoising queries, if there are any.
    dense_weight: weight of the one-to-many loss on all cells; 0: none.
    class_proposals: proposals learn the class of their object (DINO) instead of objects against background.
    """

    classification: Classification = "focal"
    denoising: NoisedObjects | None = None
    dense_weight: float = 0.0
    class_proposals: bool = False

    def loss_counts(self, objects: list[int]) -> Counts:
        """The normalisers of the losses, except of `dense`, whose normaliser depends on predictions.

        objects: the number of objects of each labelled image.
        """
        counts: Counts = {"objects": sum(objects)}
        if self.denoising is not None:
            counts["denoising"] = self.denoising.groups_of(objects) * sum(objects)
        return counts

    def losses(self, outputs: Outputs, targets: list[Targets], context: LossContext) -> Losses:
        """`label`, `l1` and `giou` of the last layer, `auxiliary`, their sum over the other layers, and a term for each
        optional output.

        outputs: `layers`, logits (L, B, Q, K) and boxes (L, B, Q, 4) cxcywh; optionally `proposals`, logits (B, S, K)
        and boxes (B, S, 4), as in `proposal_loss`; and in training `objects`, if already collected, `denoising` of
        `DenoisingQueries.split`, and `dense`, the arguments of `dense_detection`. `pairs`: of `match`, if computed.
        """
        labelled = LabelledObjects.of(targets, outputs["logits"].device, outputs.get("objects"))
        objects, pairs = labelled.objects, outputs.get("pairs")
        losses = self.matched_losses(self._learned(outputs), labelled, context, pairs, self.class_proposals)
        if "proposals" in outputs and not self.class_proposals:
            losses["proposals"] = self.proposal_loss(labelled.select(outputs["proposals"]), objects, context)
        zero = outputs["logits"].new_zeros(())
        if self.denoising is not None:
            noised = outputs.get("denoising")  # in training only
            losses["denoising"] = zero if noised is None else self.denoising_loss(noised, objects, context)
        if self.dense_weight:
            cells = outputs.get("dense")
            losses["dense"] = zero if cells is None else self.dense_loss(labelled.select(cells), objects, context)
        return losses

    def match(self, outputs: Outputs, objects: Objects, strict: bool) -> MatchedPairs:
        """Bipartite matching of all layers, with `class_proposals` after the proposals.

        outputs: `layers` and `proposals`, as in `losses`. objects: the objects of all images of the batch. strict: the
        argument of `assign`.
        """
        return hungarian(*self._learned(outputs), objects, self.costs, softmax=False, strict=strict)

    def _learned(self, outputs: Outputs) -> tuple[Tensor, Tensor]:
        """Logits and boxes of the layers, with `class_proposals` after those of the proposals: one matching of both."""
        if not self.class_proposals:
            return outputs["layers"]
        logits, boxes = (torch.cat([x[None], y]) for x, y in zip(outputs["proposals"], outputs["layers"], strict=True))
        return logits, boxes

    def proposal_loss(self, proposals: Sequence[Tensor], objects: Objects, context: LossContext) -> Tensor:
        """The loss of proposals, logits (B, S, K) and boxes (B, S, 4). Their targets are binary (Deformable DETR, A.4):
        each object has class 0. Heads with this loss need images in which all classes are labelled."""
        objects = objects._replace(labels=objects.labels.new_zeros(len(objects.labels)), labelled=None)
        terms = self.losses_per_layer(proposals[0][None], proposals[1][None], objects, context)
        return torch.stack(list(terms.values())).sum()

    def denoising_loss(self, predictions: Sequence[Tensor], objects: Objects, context: LossContext) -> Tensor:
        """Reconstruction loss of denoising queries, which need no matching, summed over layers and terms.

        predictions: logits (L, R, K), boxes (L, R, 4) and target (P,): the object of each of the first P queries; the
        others learn "no object" (DINO, section 3.3). Normalised by P, averaged over processes.
        """
        logits, boxes, target = predictions
        pairs = MatchedPairs.from_queries(target, len(logits))
        logits, boxes = logits[:, None], boxes[:, None]  # as of one image
        if objects.labelled is not None:  # of the image of each query: each group has a query of each object
            image = objects.image.repeat(logits.shape[2] // max(len(objects.labels), 1))
            objects = objects._replace(labelled=objects.labelled[image, 0])
        terms = set_losses(logits, boxes, objects, pairs, context, self.classification, len(target), "denoising")
        return torch.stack(list(self.weights.weighted(terms).values())).sum()

    def dense_loss(self, cells: Sequence[Tensor], objects: Objects, context: LossContext) -> Tensor:
        """One-to-many loss of a prediction per cell: logits (B, S, K), boxes (B, S, 4), centres and padding as in
        `dense_detection`."""
        logits, boxes, centres, padding = cells
        terms = dense_detection(logits, boxes, centres, padding, objects, context)
        return self.dense_weight * torch.stack(list(self.weights.weighted(terms).values())).sum()
