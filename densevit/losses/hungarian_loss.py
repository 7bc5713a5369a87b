"""The Hungarian loss of set prediction: bipartite matching, then the losses of the matched predictions."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from torch import Tensor

from densevit.errors import DensevitError, did_you_mean
from densevit.losses.context import LossContext
from densevit.losses.labelled_objects import LabelledObjects
from densevit.losses.matching import MatchedPairs, MatchingCosts, Objects, as_layers, hungarian
from densevit.losses.set_losses import (
    BINARY_LOSSES,
    Classification,
    LossWeights,
    last_and_auxiliary,
    set_losses,
    softmax_set_losses,
)


@dataclass
class HungarianLoss:
    """The Hungarian loss, or set criterion (DETR, Carion et al. 2020, equations 1 and 2).

    `loss(logits, boxes, targets)` returns the weighted terms `label`, `l1` and `giou` of the last layer, and
    `auxiliary`, their sum over the other layers; further arguments are `context`, a `densevit.LossContext`, and
    `pairs`, matched pairs on the same device. All terms are 0 and connected to the predictions if no image is labelled.

    logits: (B, Q, K), or (L, B, Q, K) of L layers; with softmax K+1.
    boxes: (B, Q, 4), or (L, B, Q, 4) of L layers, cxcywh in 0 ... 1.
    targets: a dict for each image with `boxes` (N, 4), xyxy in pixels, `labels` (N,) and `size` (h, w) in pixels;
        without boxes or labels, the image is left out. Boxes (0, 4) mean that it has no objects. `labelled`, (K,) bool:
        the classes that are labelled, if not all are; others are neither positive nor negative (`labelled_logits`).
    costs, weights: weights of the terms of the matching cost and of the loss.
    classification: "softmax", whose last class is "no object" (DETR), or without such a class the sigmoids of "focal"
        (Deformable DETR), "varifocal" (VarifocalNet), "varifocal_matched", which has no class loss of matched
        predictions that do not overlap their object (RT-DETR), "mal" (DEIM) or "iou_aware" (LW-DETR).
    no_object_weight: weight of "no object" in the softmax class loss.
    """

    costs: MatchingCosts = MatchingCosts()
    weights: LossWeights = LossWeights()
    classification: Classification | Literal["softmax"] = "softmax"
    no_object_weight: float = field(default=0.1, kw_only=True)

    def __post_init__(self) -> None:
        if self.classification not in (kinds := ("softmax", *BINARY_LOSSES)):
            raise DensevitError(f"classification is {self.classification!r}.{did_you_mean(self.classification, kinds)}")

    def __call__(
        self,
        logits: Tensor,
        boxes: Tensor,
        targets: Sequence[Mapping[str, Any]],
        context: LossContext = LossContext(),
        pairs: MatchedPairs | None = None,
    ) -> dict[str, Tensor]:
        """The weighted losses, by name. For the arguments, see the class."""
        layers = as_layers(logits, boxes, len(targets))
        return self.matched_losses(layers, LabelledObjects.of(targets, logits.device), context, pairs)

    def matched_losses(
        self,
        layers: Sequence[Tensor],
        labelled: LabelledObjects,
        context: LossContext,
        pairs: MatchedPairs | None = None,
        proposals: bool = False,
    ) -> dict[str, Tensor]:
        """The losses of a batch whose objects are collected. layers: logits (L, B, Q, K) and boxes (L, B, Q, 4).
        proposals: the argument of `last_and_auxiliary`."""
        logits, boxes = labelled.select(layers, dim=1)
        pairs = pairs and labelled.select_pairs(pairs)
        return last_and_auxiliary(self.losses_per_layer(logits, boxes, labelled.objects, context, pairs), proposals)

    def losses_per_layer(
        self,
        logits: Tensor,
        boxes: Tensor,
        objects: Objects,
        context: LossContext,
        pairs: MatchedPairs | None = None,
    ) -> dict[str, Tensor]:
        """`label`, `l1` and `giou` of each layer, (L,) each. logits: (L, B, Q, K). boxes: (L, B, Q, 4).

        pairs: the matched pairs, if already computed.
        """
        pairs = pairs or hungarian(
            logits, boxes, objects, self.costs, self.classification == "softmax", context.raise_on_non_finite
        )
        if self.classification == "softmax":
            terms = softmax_set_losses(logits, boxes, objects, pairs, context, self.no_object_weight)
        else:
            terms = set_losses(logits, boxes, objects, pairs, context, self.classification)
        return self.weights.weighted(terms)
