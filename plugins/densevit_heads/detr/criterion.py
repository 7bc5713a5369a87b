"""DETR's criterion: bipartite matching, and the losses of the matching (Carion et al. 2020, section 3.1 and A.2)."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from densevit.interfaces import Losses, Outputs, Targets
from densevit.layers.precision import autocast_off
from densevit.losses.context import Counts, LossContext, loss_normalizers
from densevit.losses.matching import MatchedPairs, MatchingCosts, Objects, hungarian
from densevit.losses.set_losses import LossWeights, SetLosses, box_losses, last_and_auxiliary
from densevit.set_prediction.labelled_objects import LabelledObjects


@dataclass
class DetrCriterion:
    """Matches the predictions of each decoder layer to the objects, and computes the losses of the matched pairs.

    num_queries: the number of predictions of an image. no_object_weight: weight of "no object" in the class loss.
    auxiliary: a loss after each layer instead of the last only.
    """

    num_queries: int
    costs: MatchingCosts
    weights: LossWeights
    no_object_weight: float
    auxiliary: bool

    def losses(self, outputs: Outputs, targets: list[Targets], context: LossContext) -> Losses:
        """`label`, `l1` and `giou` of the last layer, and `auxiliary`, their sum over the other layers.

        outputs: `layers`, logits (L, B, Q, K+1) and boxes (L, B, Q, 4) cxcywh; optionally the `objects` of the batch,
        and `pairs`, the result of `match`.
        """
        labelled = LabelledObjects.of(targets, outputs["logits"].device, outputs.get("objects"))
        logits, boxes = labelled.select(self._learned(outputs), dim=1)
        if "pairs" in outputs:
            pairs = labelled.select_pairs(outputs["pairs"])
        else:
            pairs = hungarian(logits, boxes, labelled.objects, self.costs, strict=context.raise_on_non_finite)
        terms = self.weights.weighted(self.terms(logits, boxes, labelled.objects, pairs, context))
        return last_and_auxiliary(terms) if self.auxiliary else {name: term[-1] for name, term in terms.items()}

    def match(self, outputs: Outputs, objects: Objects, strict: bool) -> MatchedPairs:
        """The matching with the least cost (equation 1) in each layer that has a loss. objects: the objects of the
        batch.

        strict: the argument of `assign`.
        """
        return hungarian(*self._learned(outputs), objects, self.costs, strict=strict)

    def terms(
        self, logits: Tensor, boxes: Tensor, objects: Objects, pairs: MatchedPairs, context: LossContext
    ) -> SetLosses:
        """The unweighted terms of equation 2, in fp32 regardless of autocast.

        logits: (L, B, Q, K+1). boxes: (L, B, Q, 4). The class loss is divided by the sum of the class weights of all
        queries, the others by the number of objects, both averaged over processes.
        """
        with autocast_off(logits.device):
            logits, no_object = logits.float(), logits.shape[-1] - 1
            classes = torch.full(logits.shape[:3], no_object, device=logits.device)  # (L, B, Q)
            classes[pairs.layer, pairs.image, pairs.query] = objects.labels[pairs.target]
            weight = torch.where(classes == no_object, self.no_object_weight, 1.0)
            cross_entropy = F.cross_entropy(logits.flatten(0, 2), classes.flatten(), reduction="none").view_as(weight)
            count = torch.full((), float(len(objects.labels)), device=logits.device)
            count, total = context.mean_counts(objects=count, objects_weights=weight.sum((1, 2)))
            label = (cross_entropy * weight).sum((1, 2)) / total.clamp(min=1e-6)
            l1, giou, _ = box_losses(boxes.float(), objects, pairs, count.clamp(min=context.min_normalizer()))
        return SetLosses(label, l1, giou)

    def loss_counts(self, objects: list[int]) -> Counts:
        """The normalisers of the losses by name. objects: the number of objects of each labelled image."""
        return loss_normalizers(objects, self.num_queries, self.no_object_weight)

    def _learned(self, outputs: Outputs) -> tuple[Tensor, Tensor]:
        """Logits and boxes of the layers that have a loss."""
        logits, boxes = outputs["layers"]
        return (logits, boxes) if self.auxiliary else (logits[-1:], boxes[-1:])
