"""Angular errors of surface normals."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

import densevit
from densevit.interfaces import Class, Predictions, Targets


class AngularError(densevit.Evaluator):
    """The angle between predicted and true normals in degrees, over all known pixels; nan without any.

    Metrics: mean, median, and below11.25, the share of pixels with an angle below 11.25 degrees.
    """

    reads = ("normals",)
    main = "mean"
    lower_is_better = ("mean", "median")

    def __init__(self, classes: Sequence[Class]) -> None:
        super().__init__(classes)
        self.angles: dict[Any, np.ndarray] = {}

    def update(self, predictions: Sequence[Predictions], truths: Sequence[Targets]) -> None:
        for prediction, truth in zip(predictions, truths, strict=True):
            if "normals" in truth:
                expected = torch.as_tensor(truth["normals"]).double()
                predicted = prediction["normals"].to(expected)
                cosine = torch.nn.functional.cosine_similarity(predicted, expected, dim=0).clamp(-1, 1)
                angles = cosine.acos().rad2deg()[(expected != 0).any(dim=0)]
                self.angles.setdefault(truth["image_id"], angles.cpu().numpy())

    def compute(self) -> dict[str, float]:
        angles = np.concatenate([np.zeros(0), *self.angles.values()])
        if not len(angles):
            return dict.fromkeys(("mean", "median", "below11.25"), float("nan"))
        below = float((angles < 11.25).mean())
        return {"mean": float(angles.mean()), "median": float(np.median(angles)), "below11.25": below}

    def reset(self) -> None:
        self.angles = {}

    def state(self) -> dict[Any, np.ndarray]:
        return self.angles

    def merge(self, states: Sequence[dict[Any, np.ndarray]]) -> None:
        self.angles = {image: angles for state in states for image, angles in state.items()}
