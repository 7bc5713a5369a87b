"""Predicted and annotated boxes of many images, in flat arrays."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch

from densevit.errors import DataError
from densevit.evaluation.object_records import (
    ObjectRecords,
    check_lengths,
    check_truth_lengths,
    first_rows,
    joined_arrays,
    unlabelled,
)
from densevit.interfaces import Predictions, Targets
from densevit.targets.object_targets import xywh


@dataclass(frozen=True, slots=True)
class BoxRecords(ObjectRecords):
    """Objects with boxes, xyxy in pixels of their image."""

    boxes: np.ndarray  # (D, 4)
    truth_boxes: np.ndarray  # (G, 4)

    per_detection: ClassVar = (*ObjectRecords.per_detection, "boxes")
    per_truth: ClassVar = (*ObjectRecords.per_truth, "truth_boxes")

    @classmethod
    def empty(cls) -> dict[str, Any]:
        return ObjectRecords.empty() | {
            "boxes": np.zeros((0, 4), np.float32),
            "truth_boxes": np.zeros((0, 4), np.float32),
        }

    @classmethod
    def of(
        cls, ids: Sequence[int | str], predictions: Sequence[Predictions], truths: Sequence[Targets]
    ) -> "BoxRecords":
        """Collects predictions and targets of at least one image, from any device, with one transfer per field.

        Default of `area`: the area of the boxes; of `iscrowd`: no crowds.
        """
        for image_id, prediction in zip(ids, predictions, strict=True):
            check_lengths(image_id, prediction, ("boxes", "scores", "labels"))
        for image_id, truth in zip(ids, truths, strict=True):
            check_truth_lengths(image_id, truth, ("boxes", "labels"))
        detections = first_rows(len(prediction["labels"]) for prediction in predictions)
        labels = joined_arrays((prediction["labels"] for prediction in predictions), int)
        return cls(
            detections=detections,
            truths=first_rows(len(truth["labels"]) for truth in truths),
            boxes=joined_arrays(prediction["boxes"] for prediction in predictions).reshape(-1, 4),
            scores=joined_arrays(prediction["scores"] for prediction in predictions),
            labels=labels,
            unlabelled=unlabelled(detections, labels, truths),
            truth_boxes=joined_arrays(truth["boxes"] for truth in truths).reshape(-1, 4),
            truth_labels=joined_arrays((truth["labels"] for truth in truths), int),
            areas=joined_arrays(truth["area"] if "area" in truth else _area(truth["boxes"]) for truth in truths),
            crowds=joined_arrays(t.get("iscrowd", np.zeros(len(t["boxes"]))) for t in truths).astype(bool),
        )

    def finite(self) -> np.ndarray:
        return ObjectRecords.finite(self) & np.isfinite(self.boxes).all(axis=1)

    def check(self, ids: Sequence[int | str], classes: int) -> None:
        ObjectRecords.check(self, ids, classes)
        broken = ~np.isfinite(self.truth_boxes).all(axis=1)
        if broken.any():
            raise DataError(f"image {self.image_of(self.truths, ids)[broken][0]}: a ground-truth box is not finite.")


def _area(boxes: Any) -> torch.Tensor:
    corners: np.ndarray = torch.as_tensor(boxes).reshape(-1, 4).cpu().numpy()
    return torch.from_numpy(xywh(corners)[:, 2:].prod(axis=1))
