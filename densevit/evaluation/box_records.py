"""Detections and ground truth of many images in flat arrays, small and fast to pickle."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch

from densevit.errors import DataError, PluginError
from densevit.interfaces import Class, Predictions, Targets


@dataclass(frozen=True)
class BoxRecords:
    """I images with D detections and G ground-truth boxes, sorted by image; boxes are xyxy in pixels of their image.

    ids: (I,) objects, int or str. detections, truths: (I,), numbers of rows per image.
    areas: (G,), from the annotations. crowds: (G,) bool.
    """

    ids: np.ndarray
    detections: np.ndarray
    boxes: np.ndarray  # (D, 4)
    scores: np.ndarray  # (D,)
    labels: np.ndarray  # (D,)
    truths: np.ndarray
    truth_boxes: np.ndarray  # (G, 4)
    truth_labels: np.ndarray  # (G,)
    areas: np.ndarray
    crowds: np.ndarray

    @classmethod
    def of(cls, ids: Sequence[int | str], found: Sequence[Predictions], truths: Sequence[Targets]) -> "BoxRecords":
        """From predictions and targets of at least one image, tensors of any device; one transfer per field.

        `area` defaults to the area of the boxes, `iscrowd` to no crowds.
        """
        for image_id, one in zip(ids, found, strict=True):
            _check_lengths(image_id, one)
        counts = [len(truth["boxes"]) for truth in truths]
        return cls(
            ids=np.array(ids, object),
            detections=np.array([len(one["boxes"]) for one in found]),
            boxes=_joined(one["boxes"] for one in found),
            scores=_joined(one["scores"] for one in found),
            labels=_joined(one["labels"] for one in found),
            truths=np.array(counts),
            truth_boxes=_joined(truth["boxes"] for truth in truths),
            truth_labels=_joined(truth["labels"] for truth in truths),
            areas=_joined(truth["area"] if "area" in truth else _area(truth["boxes"]) for truth in truths),
            crowds=_joined(t.get("iscrowd", np.zeros(n)) for t, n in zip(truths, counts, strict=True)).astype(bool),
        )

    @classmethod
    def joined(cls, parts: Iterable["BoxRecords"]) -> "BoxRecords":
        """Concatenates records."""
        parts = [_NONE, *parts]
        return cls(
            **{field.name: np.concatenate([getattr(part, field.name) for part in parts]) for field in fields(cls)}
        )

    def take(self, images: Sequence[int]) -> "BoxRecords":
        """Selects images by index, in this order."""
        numbers = np.array(images, int)
        rows, truth_rows = _rows_of(numbers, self.detections), _rows_of(numbers, self.truths)
        chosen = {name: getattr(self, name)[numbers] for name in ("ids", "detections", "truths")}
        chosen |= {name: getattr(self, name)[rows] for name in ("boxes", "scores", "labels")}
        chosen |= {name: getattr(self, name)[truth_rows] for name in ("truth_boxes", "truth_labels", "areas", "crowds")}
        return BoxRecords(**chosen)

    def check(self, classes: int) -> None:
        """Raises an error with the image's id for a prediction that is not finite or a label that is not a class."""
        image_of, truth_image_of = np.repeat(self.ids, self.detections), np.repeat(self.ids, self.truths)
        broken = ~(np.isfinite(self.boxes).all(axis=1) & np.isfinite(self.scores))
        if broken.any():
            raise DataError(
                f"image {image_of[broken][0]}: a predicted box or score is not a finite number. The weights have"
                " probably diverged; a lower optim.lr, trainer.clip_grad_norm or trainer.precision=32 helps."
            )
        known = f"but there are {classes} classes, 0 ... {classes - 1}."
        wrong = (self.labels < 0) | (self.labels >= classes)
        if wrong.any():
            raise PluginError(
                f"image {image_of[wrong][0]}: predicted label {self.labels[wrong][0]}, {known}"
                " A head's predict() must leave out its no-object class."
            )
        wrong = (self.truth_labels < 0) | (self.truth_labels >= classes)
        if wrong.any():
            raise DataError(
                f"image {truth_image_of[wrong][0]}: label {self.truth_labels[wrong][0]}, {known}"
                " Is this the data set that the model was trained on?"
            )


_NONE = BoxRecords(
    ids=np.zeros(0, object),
    detections=np.zeros(0, int),
    boxes=np.zeros((0, 4), np.float32),
    scores=np.zeros(0, np.float32),
    labels=np.zeros(0, int),
    truths=np.zeros(0, int),
    truth_boxes=np.zeros((0, 4), np.float32),
    truth_labels=np.zeros(0, int),
    areas=np.zeros(0, np.float32),
    crowds=np.zeros(0, bool),
)


def coco_results(
    image_id: int | str, boxes: np.ndarray, scores: np.ndarray, labels: np.ndarray, classes: Sequence[Class]
) -> list[dict[str, Any]]:
    """One image's detections, boxes (D, 4) xyxy, as entries of a COCO results file, without rounding.

    Category ids are those of the annotation files, boxes x, y, width, height.
    """
    rows = zip(labels.tolist(), xywh(boxes).tolist(), scores.tolist(), strict=True)
    return [
        {"image_id": image_id, "category_id": classes[label].file_id, "bbox": box, "score": score}
        for label, box, score in rows
    ]


def xywh(boxes: np.ndarray) -> np.ndarray:
    """Converts corners (N, 4) to x, y, width, height, in float64 to avoid rounding."""
    boxes = boxes.astype(np.float64)
    return np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1)


def _check_lengths(image_id: int | str, found: Predictions) -> None:
    lengths = {name: len(found[name]) for name in ("boxes", "scores", "labels")}
    if len(set(lengths.values())) > 1:
        counts = ", ".join(f"{count} {name}" for name, count in lengths.items())
        raise PluginError(
            f"image {image_id}: predictions with {counts}. A head's predict() must return equally many of each."
        )


def _joined(arrays: Iterable[Any]) -> np.ndarray:
    """Concatenates tensors or arrays; converts half precision, which numpy lacks or handles badly, to float32."""
    joined = torch.cat([torch.as_tensor(array) for array in arrays]).detach()
    if joined.dtype in (torch.bfloat16, torch.float16):
        joined = joined.float()
    values: np.ndarray = joined.cpu().numpy()
    return values


def _area(boxes: Any) -> torch.Tensor:
    corners = torch.as_tensor(boxes)
    return (corners[:, 2:] - corners[:, :2]).prod(dim=1)


def _rows_of(images: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """The rows of these images, if image i has counts[i] rows."""
    starts, chosen = np.cumsum(counts) - counts, counts[images]
    within = np.arange(chosen.sum()) - np.repeat(np.cumsum(chosen) - chosen, chosen)
    return np.repeat(starts[images], chosen) + within
