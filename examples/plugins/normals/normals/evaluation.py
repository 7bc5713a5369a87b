"""Angular errors of surface normals."""

from collections.abc import Sequence

import numpy as np
import torch

import densevit
from densevit.interfaces import Predictions, Targets


class AngularError(densevit.Evaluator):
    """The angle between predicted and true normals in degrees, over all known pixels; nan without any.

    Metrics: mean, median, and below11.25, the share of pixels with an angle below 11.25 degrees.
    """

    reads = ("normals",)
    main = "mean"
    lower_is_better = ("mean", "median")

    def record(self, prediction: Predictions, truth: Targets) -> np.ndarray | None:
        if "normals" not in truth:
            return None
        expected = torch.as_tensor(truth["normals"]).double()
        predicted = prediction["normals"].to(expected)
        cosine = torch.nn.functional.cosine_similarity(predicted, expected, dim=0).clamp(-1, 1)
        angles: np.ndarray = cosine.acos().rad2deg()[(expected != 0).any(dim=0)].cpu().numpy()
        return angles

    def compute(self, records: Sequence[np.ndarray]) -> dict[str, float]:
        angles = np.concatenate([np.zeros(0), *records])
        if not len(angles):
            return dict.fromkeys(("mean", "median", "below11.25"), float("nan"))
        below = float((angles < 11.25).mean())
        return {"mean": float(angles.mean()), "median": float(np.median(angles)), "below11.25": below}
