"""A custom evaluator."""

from collections.abc import Sequence
from typing import Any

import densevit
from densevit.interfaces import Class, Predictions, Targets


class CountError(densevit.Evaluator):
    """How far counts are off, on the average, and how often they are right once rounded."""

    main = "exact"

    def __init__(self, classes: Sequence[Class], tolerance: float = 0.5) -> None:
        super().__init__(classes)
        self.tolerance = tolerance
        self.errors: dict[Any, float] = {}

    def update(self, predictions: Sequence[Predictions], truths: Sequence[Targets]) -> None:
        for prediction, truth in zip(predictions, truths, strict=True):
            self.errors[truth["image_id"]] = abs(float(prediction["count"]) - len(truth["boxes"]))

    def compute(self) -> dict[str, float]:
        errors = list(self.errors.values())
        exact = sum(error < self.tolerance for error in errors)
        return {"error": sum(errors) / max(len(errors), 1), "exact": exact / max(len(errors), 1)}

    def reset(self) -> None:
        self.errors = {}

    def state(self) -> dict[Any, float]:
        return self.errors

    def merge(self, states: Sequence[dict[Any, float]]) -> None:
        self.errors = {image: error for state in states for image, error in state.items()}
