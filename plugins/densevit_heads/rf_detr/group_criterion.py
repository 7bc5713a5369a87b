"""The criterion: bipartite matching and losses of each layer and group of queries."""

from dataclasses import dataclass

from torch import Tensor

from densevit.interfaces import LossContext, Losses, Outputs, Targets
from densevit.losses.context import Counts
from densevit.losses.labelled_objects import LabelledObjects
from densevit.losses.set_losses import last_and_auxiliary
from densevit.set_prediction.criterion import SetCriterion


@dataclass
class GroupCriterion(SetCriterion):
    """`SetCriterion` of groups of queries: each object is assigned to one query of each group.

    The losses are means over the groups; the authors divide by the number of objects times the number of groups.
    """

    def loss_counts(self, objects: list[int]) -> Counts:
        """The normalisers of the losses by name. objects: the number of objects of each labelled image."""
        return {"objects": sum(objects)}

    def losses(self, outputs: Outputs, targets: list[Targets], context: LossContext) -> Losses:
        """The terms of the last layer by name; `proposals`, their sum over the proposals; `auxiliary`, over all other
        layers.

        outputs: `layers`, logits (1 + L, B, G, Q, K) and boxes (1 + L, B, G, Q, 4) of the proposals and of L layers.
        """
        labelled = LabelledObjects.of(targets, outputs["logits"].device)
        return last_and_auxiliary(self.terms(outputs, targets, labelled, context), proposals=True)

    def terms(
        self, outputs: Outputs, targets: list[Targets], labelled: LabelledObjects, context: LossContext
    ) -> Losses:
        """The weighted losses (1 + L,), by name."""
        logits, boxes, groups = self.groups_as_layers(outputs, labelled)
        return over_groups(self.losses_per_layer(logits, boxes, labelled.objects, context), groups)

    def groups_as_layers(self, outputs: Outputs, labelled: LabelledObjects) -> tuple[Tensor, Tensor, int]:
        """Logits and boxes ((1 + L) * G, B, Q, ...) of the proposals and L layers, each group as a layer; and G.

        B: the labelled images.
        """
        logits, boxes = labelled.select(outputs["layers"], dim=1)
        return logits.transpose(1, 2).flatten(0, 1), boxes.transpose(1, 2).flatten(0, 1), logits.shape[2]


def over_groups(terms: Losses, groups: int) -> Losses:
    """The means (1 + L,) of the terms ((1 + L) * G,) over the groups."""
    return {name: term.unflatten(0, (-1, groups)).mean(1) for name, term in terms.items()}
