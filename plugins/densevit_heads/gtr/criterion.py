"""The criterion of GTR: D-FINE's, in groups of queries."""

from dataclasses import dataclass

from torch import Tensor

from densevit.interfaces import Losses, Outputs, Targets
from densevit.losses.boxes import overlaps, to_corners
from densevit.losses.context import LossContext
from densevit.losses.matching import Objects
from densevit_heads.parts.distributions.criterion import DfineCriterion, DistributionPairs, LayerOutputs


@dataclass
class GroupedDfineCriterion(DfineCriterion):
    """`DfineCriterion` of G groups, each of which is an image of the batch: `layers` has G * B images, group by group.

    The boxes of the proposals learn from the matching of the proposals instead of the union, and their losses are
    divided by the number of objects.
    """

    def losses(self, outputs: Outputs, targets: list[Targets], context: LossContext) -> Losses:
        """The losses of `DfineCriterion`. targets: those of the B images."""
        return super().losses(outputs, targets * groups_of(outputs, targets), context)

    def proposal_boxes(
        self, terms: Losses, layers: LayerOutputs, objects: Objects, pairs: DistributionPairs, shares: Tensor
    ) -> tuple[Tensor, Tensor]:
        image, query, target = (x[-1, : pairs.matched] for x in (pairs.image, pairs.query, pairs.target))
        predicted, truth, share = layers.boxes[-1, image, query], objects.boxes[target], shares[image, query]
        l1 = (predicted - truth).abs().sum(-1)
        _, giou = overlaps(to_corners(predicted), to_corners(truth))
        return self.weights.l1 * (share * l1).sum(), self.weights.giou * (share * (1 - giou)).sum()


def groups_of(outputs: Outputs, targets: list[Targets]) -> int:
    """The number of groups in the outputs of a head."""
    return len(outputs["layers"].initial) // len(targets)
