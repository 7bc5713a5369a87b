"""Target types of one number per object: scores of predictions, and weights of labels."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from densevit.interfaces import Class, Size
from densevit.targets.object_targets import ObjectType, check_column, check_range


class LabelWeights(ObjectType):
    """(N,) 0 ... 1, weights of the class losses of objects, such as the scores of predicted labels."""

    task = None

    def check(self, value: Any, size: Size) -> None:
        check_column(value, "f", "floating-point numbers")
        check_range(value, 0, 1)

    def value_range(self, value: np.ndarray, size: Size) -> float:
        return 1.0


class Scores(LabelWeights):
    """(N,) confidences 0 ... 1 of predictions."""

    def encode(self, value: np.ndarray, classes: Sequence[Class]) -> dict[str, np.ndarray]:
        return {"score": value.astype(np.float64)}

    def decode(self, encoded: Sequence[Mapping[str, Any]], classes: Sequence[Class]) -> np.ndarray:
        return np.array([entry["score"] for entry in encoded], np.float64)
