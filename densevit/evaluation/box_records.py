"""Predicted and annotated boxes of many images, in flat arrays."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch

from densevit.errors import DataError
from densevit.evaluation.object_records import ObjectRecords, check_lengths, check_truth_lengths, joined_arrays
from densevit.interfaces import Class, Predictions, Targets
from densevit.targets.object_targets import xywh


@dataclass(frozen=True)
class BoxRecords(ObjectRecords):
    """Objects with boxes, xyxy in pixels of their image."""

    boxes: np.ndarray  # (D, 4)
    truth_boxes: np.ndarray  # (G, 4)

    per_detection: ClassVar = (*ObjectRecords.per_detection, "boxes")
    per_truth: ClassVar = (*ObjectRecords.per_truth, "truth_boxes")

    @classmethod
    def empty(cls) -> dict[str, np.ndarray]:
        return super().empty() | {
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
        counts = [len(truth["boxes"]) for truth in truths]
        return cls(
            ids=np.array(ids, object),
            detections=np.array([len(prediction["boxes"]) for prediction in predictions]),
            boxes=joined_arrays(prediction["boxes"] for prediction in predictions),
            scores=joined_arrays(prediction["scores"] for prediction in predictions),
            labels=joined_arrays(prediction["labels"] for prediction in predictions),
            truths=np.array(counts),
            truth_boxes=joined_arrays(truth["boxes"] for truth in truths),
            truth_labels=joined_arrays(truth["labels"] for truth in truths),
            areas=joined_arrays(truth["area"] if "area" in truth else _area(truth["boxes"]) for truth in truths),
            crowds=joined_arrays(t.get("iscrowd", np.zeros(n)) for t, n in zip(truths, counts, strict=True)).astype(
                bool
            ),
        )

    def finite(self) -> np.ndarray:
        return super().finite() & np.isfinite(self.boxes).all(axis=1)

    def check(self, classes: int) -> None:
        super().check(classes)
        broken = ~np.isfinite(self.truth_boxes).all(axis=1)
        if broken.any():
            image_id = np.repeat(self.ids, self.truths)[broken][0]
            raise DataError(f"image {image_id}: a ground-truth box is not finite.")


def coco_results(
    image_id: int | str, boxes: np.ndarray, scores: np.ndarray, labels: np.ndarray, classes: Sequence[Class]
) -> list[dict[str, Any]]:
    """One image's detections, boxes (D, 4) xyxy, as entries of a COCO results file, not rounded.

    The entries have the category ids of the annotation files, and boxes as x, y, width, height.
    """
    rows = zip(labels.tolist(), xywh(boxes).tolist(), scores.tolist(), strict=True)
    return [
        {"image_id": image_id, "category_id": classes[label].file_id, "bbox": box, "score": score}
        for label, box, score in rows
    ]


def _area(boxes: Any) -> torch.Tensor:
    corners: np.ndarray = torch.as_tensor(boxes).cpu().numpy()
    return torch.from_numpy(xywh(corners)[:, 2:].prod(axis=1))
