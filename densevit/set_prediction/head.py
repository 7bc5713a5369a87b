"""The common part of detection heads with queries and a criterion: losses and predictions."""

from collections.abc import Mapping, Sequence
from typing import ClassVar, Protocol

from torch import Tensor

from densevit.interfaces import (
    Class,
    Head,
    LossContext,
    Losses,
    Outputs,
    Predictions,
    Targets,
)
from densevit.losses.context import Counts
from densevit.losses.labelled_objects import object_counts
from densevit.set_prediction.limits import MAX_QUERIES, check_classes, check_counts
from densevit.set_prediction.predictions import exported_predictions, top_exported, top_predictions


class Criterion(Protocol):
    """The losses of a head, such as `SetCriterion`."""

    def loss_counts(self, objects: list[int]) -> Counts:
        """The normalisers of the losses by name. objects: the number of objects of each labelled image."""

    def losses(self, outputs: Outputs, targets: list[Targets], context: LossContext) -> Losses:
        """The weighted losses of the head's outputs, by name."""


class SetPredictionHead(Head):
    """A detection head of `num_queries` queries. A subclass has `forward`, and sets `criterion` in its constructor.

    softmax: whether classes have a softmax whose last class is "no object", as in DETR, instead of sigmoids.
    """

    task = "detection"
    required_targets: ClassVar[tuple[str, ...]] = ("boxes", "labels")
    softmax: ClassVar[bool] = False
    partial_labels = True
    criterion: Criterion

    def __init__(
        self, channels: Sequence[int], strides: Sequence[int], classes: Sequence[Class], num_queries: int
    ) -> None:
        super().__init__(channels, strides, classes)
        check_classes(classes, self.task)
        check_counts({"num_queries": num_queries}, maximum=MAX_QUERIES)
        self.num_queries = num_queries

    def loss_counts(self, targets: list[Targets]) -> dict[str, float]:
        return self.criterion.loss_counts(object_counts(targets))

    def loss(self, outputs: Outputs, targets: list[Targets], context: LossContext) -> Losses:
        """Returns `label`, `l1`, `giou` of the last layer, `auxiliary` (sum of the others), and the further terms of
        the criterion."""
        return self.criterion.losses(outputs, targets, context)

    def predict(self, outputs: Outputs, targets: list[Targets]) -> list[Predictions]:
        """Returns the Q top-scoring (query, class) pairs by descending score; with softmax, one class per query."""
        return top_predictions(outputs, targets, softmax=self.softmax)

    def exported(
        self, outputs: Outputs, size: tuple[int, int], original_size: tuple[int, int] | None = None
    ) -> dict[str, Tensor]:
        """`boxes` (B, Q, 4) xyxy and `scores` (B, Q, K) of all queries."""
        return exported_predictions(outputs, original_size or size, softmax=self.softmax)

    def predict_exported(self, exported: Mapping[str, Tensor], targets: list[Targets]) -> list[Predictions]:
        """The predictions of `predict` from the outputs of `exported`."""
        return top_exported(exported, targets, softmax=self.softmax)
