"""The common part of detection heads with a `SetCriterion`: losses and predictions."""

from collections.abc import Mapping, Sequence
from typing import ClassVar

from torch import Tensor

from densevit.interfaces import (
    Class,
    Dataset,
    Head,
    LossContext,
    Losses,
    Outputs,
    Predictions,
    Targets,
)
from densevit.set_prediction.criterion import SetCriterion, object_counts
from densevit.set_prediction.denoising import ContrastiveDenoising, Denoising
from densevit.set_prediction.limits import MAX_QUERIES, check_classes, check_counts
from densevit.set_prediction.predictions import exported_predictions, top_exported, top_predictions


class SetPredictionHead(Head):
    """A detection head of `num_queries` queries. A subclass has `forward`, and sets `criterion` in its constructor.

    denoising: makes denoising queries in training; None: there are none.
    """

    task = "detection"
    needs: ClassVar[tuple[str, ...]] = ("boxes", "labels")
    criterion: SetCriterion
    denoising: Denoising | ContrastiveDenoising | None

    def __init__(
        self, channels: Sequence[int], strides: Sequence[int], classes: Sequence[Class], num_queries: int
    ) -> None:
        super().__init__(channels, strides, classes)
        check_classes(classes, self.task)
        check_counts({"num_queries": num_queries}, maximum=MAX_QUERIES)
        self.num_queries = num_queries
        self.denoising = None

    def check(self, dataset: Dataset) -> None:
        """Warns if training images have more objects than queries."""
        super().check(dataset)
        self.criterion.check(dataset)

    def loss_counts(self, targets: list[Targets]) -> dict[str, float]:
        return self.criterion.loss_counts(object_counts(targets), self.denoising)

    def loss(self, outputs: Outputs, targets: list[Targets], context: LossContext) -> Losses:
        """Returns `label`, `l1`, `giou` of the last layer, `auxiliary` (sum of the others), and the further terms of
        `SetCriterion.losses` that the head has."""
        return self.criterion.losses(outputs, targets, context)

    def predict(self, outputs: Outputs, targets: list[Targets]) -> list[Predictions]:
        """Returns the Q top-scoring (query, class) pairs by descending score; with softmax, one class per query."""
        return top_predictions(outputs, targets, softmax=self.criterion.classification == "softmax")

    def exported(
        self, outputs: Outputs, size: tuple[int, int], original_size: tuple[int, int] | None = None
    ) -> dict[str, Tensor]:
        """`boxes` (B, Q, 4) xyxy and `scores` (B, Q, K) of all queries."""
        return exported_predictions(outputs, original_size or size, softmax=self.criterion.classification == "softmax")

    def predict_exported(self, exported: Mapping[str, Tensor], targets: list[Targets]) -> list[Predictions]:
        """The predictions of `predict` from the outputs of `exported`."""
        return top_exported(exported, targets, softmax=self.criterion.classification == "softmax")
