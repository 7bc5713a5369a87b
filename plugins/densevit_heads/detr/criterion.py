"""DETR's criterion: bipartite matching, and the losses of the matching (Carion et al. 2020, section 3.1 and A.2)."""

from dataclasses import dataclass, field

from torch import Tensor

from densevit.interfaces import Losses, Outputs, Targets
from densevit.losses.context import Counts, LossContext, loss_normalizers
from densevit.losses.hungarian_loss import HungarianLoss
from densevit.losses.labelled_objects import LabelledObjects
from densevit.losses.matching import MatchedPairs, Objects, hungarian


@dataclass
class DetrCriterion(HungarianLoss):
    """`HungarianLoss` of a head's outputs.

    num_queries: the number of predictions of an image. auxiliary: a loss after each layer instead of the last only.
    """

    num_queries: int = field(kw_only=True)
    auxiliary: bool = field(default=True, kw_only=True)

    def losses(self, outputs: Outputs, targets: list[Targets], context: LossContext) -> Losses:
        """`label`, `l1` and `giou` of the last layer, and `auxiliary`, their sum over the other layers.

        outputs: `layers`, logits (L, B, Q, K+1) and boxes (L, B, Q, 4) cxcywh; optionally the `objects` of the batch,
        and `pairs`, the result of `match`.
        """
        labelled = LabelledObjects.of(targets, outputs["logits"].device, outputs.get("objects"))
        losses = self.matched_losses(self._learned(outputs), labelled, context, outputs.get("pairs"))
        return losses if self.auxiliary else {name: losses[name] for name in ("label", "l1", "giou")}

    def match(self, outputs: Outputs, objects: Objects, strict: bool) -> MatchedPairs:
        """The matching with the least cost (equation 1) in each layer that has a loss. objects: the objects of the
        batch.

        strict: the argument of `assign`.
        """
        return hungarian(*self._learned(outputs), objects, self.costs, strict=strict)

    def loss_counts(self, objects: list[int]) -> Counts:
        """The normalisers of the losses by name. objects: the number of objects of each labelled image."""
        return loss_normalizers(objects, self.num_queries, self.no_object_weight)

    def _learned(self, outputs: Outputs) -> tuple[Tensor, Tensor]:
        """Logits and boxes of the layers that have a loss."""
        logits, boxes = outputs["layers"]
        return (logits, boxes) if self.auxiliary else (logits[-1:], boxes[-1:])
