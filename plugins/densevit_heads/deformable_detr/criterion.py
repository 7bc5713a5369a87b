"""Matching and losses (section 4.2): DETR's, with focal instead of cross-entropy classification."""

from torch import Tensor

from densevit.losses.matching import MatchingCosts, Objects, hungarian
from densevit.losses.set_prediction import SetLosses, set_losses

COSTS = MatchingCosts(label=2.0, l1=5.0, giou=2.0)
WEIGHTS = {"label": 2.0, "l1": 5.0, "giou": 2.0}


def set_criterion(logits: Tensor, boxes: Tensor, objects: Objects) -> dict[str, Tensor]:
    """Weighted losses `label`, `l1` and `giou` of each layer, (L,) each, after bipartite matching.

    logits: (L, B, Q, K). boxes: (L, B, Q, 4) cxcywh.
    """
    matches = hungarian(logits, boxes, objects, COSTS, softmax=False)
    losses = set_losses(logits, boxes, objects, matches, "focal")
    return {name: WEIGHTS[name] * loss for name, loss in zip(SetLosses._fields, losses, strict=True)}


def proposal_loss(logits: Tensor, boxes: Tensor, objects: Objects) -> Tensor:
    """The loss of the encoder's proposals: the same, with binary targets (A.4): each object has class 0.

    logits: (B, S, K). boxes: (B, S, 4).
    """
    binary = objects._replace(labels=objects.labels.new_zeros(len(objects.labels)))
    label, l1, giou = set_criterion(logits[None], boxes[None], binary).values()
    return label.sum() + l1.sum() + giou.sum()
