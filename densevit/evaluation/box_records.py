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
from densevit.targets.object_targets import Boxes, xywh


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
        for number, image_id in enumerate(ids if self._has_invalid_truth() else ()):
            try:
                Boxes().check(self.truth_boxes[self.truths[number] : self.truths[number + 1]], (1, 1))
            except DataError as error:
                raise DataError(f"image {image_id}: boxes {error}") from None

    def _has_invalid_truth(self) -> bool:
        low, high = self.truth_boxes[:, :2], self.truth_boxes[:, 2:]
        return not (np.isfinite(self.truth_boxes).all() and (low <= high).all())


def _area(boxes: Any) -> torch.Tensor:
    corners: np.ndarray = torch.as_tensor(boxes).reshape(-1, 4).cpu().numpy()
    return torch.from_numpy(xywh(corners)[:, 2:].prod(axis=1))
