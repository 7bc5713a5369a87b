"""The loss as the metric of a head without an evaluator, and of a method without heads."""

import math
from collections.abc import Sequence

from densevit.interfaces import Evaluator, Predictions, Targets


class ValidationLoss(Evaluator):
    """The mean of a head's loss over the labelled images.

    Predictions are {"loss": float}. The sum is correctly rounded, so the mean does not depend on
    the order of the images or the number of processes.
    """

    main = "loss"
    lower_is_better = ("loss",)

    def record(self, prediction: Predictions, truth: Targets) -> float | None:
        """The loss; None for an unlabelled image, which has none."""
        return prediction.get("loss")

    def compute(self, records: Sequence[float]) -> dict[str, float]:
        """Returns {"loss": the mean}; nan without labelled images."""
        if not records or not all(map(math.isfinite, records)):
            return {"loss": math.nan}
        return {"loss": math.fsum(records) / len(records)}
