"""A custom evaluator."""

from collections.abc import Sequence

import densevit
from densevit.interfaces import Class, Predictions, Targets


class CountError(densevit.Evaluator):
    """How far counts are off, on the average, and how often they are right once rounded."""

    main = "exact"

    def __init__(self, classes: Sequence[Class], tolerance: float = 0.5) -> None:
        super().__init__(classes)
        self.tolerance = tolerance

    def record(self, prediction: Predictions, truth: Targets) -> float:
        return abs(float(prediction["count"]) - len(truth["boxes"]))

    def compute(self, records: Sequence[float]) -> dict[str, float]:
        exact = sum(error < self.tolerance for error in records)
        return {"error": sum(records) / max(len(records), 1), "exact": exact / max(len(records), 1)}
