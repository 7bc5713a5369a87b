"""Predicted objects and ground truth in flat arrays, of one image or of many."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch

from densevit.errors import DataError, PluginError
from densevit.interfaces import Predictions, Targets


@dataclass(frozen=True, slots=True)
class ObjectRecords:
    """D detections and G ground-truth objects of I images, sorted by image.

    detections, truths: first rows of the images and the end, (I + 1,). unlabelled: the result of `unlabelled`. areas:
    (G,), as annotated. crowds: (G,) bool.
    Subclasses add arrays and list them in `per_detection` or `per_truth` if they have one row per detection or
    ground-truth object, instead of one per image.
    """

    detections: list[int]
    truths: list[int]

    scores: np.ndarray  # (D,)
    labels: np.ndarray  # (D,)
    unlabelled: np.ndarray  # (D,) bool
    truth_labels: np.ndarray  # (G,)
    areas: np.ndarray
    crowds: np.ndarray

    per_detection: ClassVar[tuple[str, ...]] = ("scores", "labels", "unlabelled")
    per_truth: ClassVar[tuple[str, ...]] = ("truth_labels", "areas", "crowds")

    @classmethod
    def empty(cls) -> dict[str, Any]:
        """The arrays of no images, with their types."""
        return {
            "scores": np.zeros(0, np.float32),
            "labels": np.zeros(0, int),
            "unlabelled": np.zeros(0, bool),
            "truth_labels": np.zeros(0, int),
            "areas": np.zeros(0, np.float32),
            "crowds": np.zeros(0, bool),
        }

    @staticmethod
    def image_of(first: Sequence[int], images: Sequence[Any]) -> np.ndarray:
        """The image of each row, from `detections` or `truths` and an object per image."""
        return np.repeat(np.array(images, object), np.diff(first))

    def finite(self) -> np.ndarray:
        """Whether each detection is finite, (D,)."""
        return np.isfinite(self.scores)

    def check(self, ids: Sequence[int | str], classes: int) -> None:
        """Raises an error with the image's id for a prediction that is not finite and for an invalid label."""
        image_of, truth_image_of = self.image_of(self.detections, ids), self.image_of(self.truths, ids)
        broken = ~self.finite()
        if broken.any():
            raise DataError(
                f"image {image_of[broken][0]}: a predicted box or score is not a finite number. The weights have"
                " probably diverged; a lower optim.lr, trainer.clip_grad_norm or trainer.precision=32 helps."
            )
        class_count = f"but there are {classes} classes, 0 ... {classes - 1}."
        wrong = (self.labels < 0) | (self.labels >= classes)
        if wrong.any():
            raise PluginError(
                f"image {image_of[wrong][0]}: predicted label {self.labels[wrong][0]}, {class_count}"
                " A head's predict() must leave out its no-object class."
            )
        wrong = (self.truth_labels < 0) | (self.truth_labels >= classes)
        if wrong.any():
            raise DataError(
                f"image {truth_image_of[wrong][0]}: label {self.truth_labels[wrong][0]}, {class_count}"
                " Is this the data set that the model was trained on?"
            )


class ImageRecord(NamedTuple):
    """The objects of an image: those of image `number` of a batch, which share few arrays."""

    batch: ObjectRecords
    number: int


def joined(records: Sequence[ImageRecord], kind: type[ObjectRecords]) -> Any:
    """Concatenates images, to a `kind`."""
    batches = [record.batch for record in records]
    detections, truths = ([slice(*getattr(x, key)[n : n + 2]) for x, n in records] for key in ("detections", "truths"))
    images = [slice(n, n + 1) for _, n in records]
    columns: dict[str, Any] = {}
    for name, empty in kind.empty().items():
        rows = detections if name in kind.per_detection else truths if name in kind.per_truth else images
        columns[name] = np.concatenate(
            [empty, *(getattr(x, name)[part] for x, part in zip(batches, rows, strict=True))]
        )
    columns["detections"], columns["truths"] = (
        first_rows(part.stop - part.start for part in rows) for rows in (detections, truths)
    )
    return kind(**columns)


def first_rows(counts: Iterable[int]) -> list[int]:
    """The first row of each image and the end, from the numbers of rows."""
    return [*accumulate(counts, initial=0)]


def unlabelled(detections: Sequence[int], labels: np.ndarray, truths: Sequence[Targets]) -> np.ndarray:
    """Whether the class of each detection is not labelled in its image, (D,) bool: `labelled` (K,) bool of the ground
    truth; all classes without it. detections: the first rows of the images and the end."""
    result = np.zeros(len(labels), bool)
    for truth, start, end in zip(truths, detections, detections[1:], strict=False):
        if "labelled" in truth:
            classes = ~np.asarray(truth["labelled"])
            result[start:end] = classes[labels[start:end].clip(0, len(classes) - 1)]  # `check` refuses invalid labels
    return result


def check_lengths(image_id: int | str, predictions: Predictions, names: Sequence[str]) -> None:
    """Raises PluginError unless these predictions of an image have equally many rows."""
    if counts := _unequal_lengths(predictions, names):
        raise PluginError(
            f"image {image_id}: predictions with {counts}. A head's predict() must return equally many of each."
        )


def check_truth_lengths(image_id: int | str, truth: Targets, names: Sequence[str]) -> None:
    """Raises DataError unless the ground truth has the keys `names`, with integers as labels, and its values of these,
    `area` and `iscrowd` are equally long."""
    if missing := [name for name in names if name not in truth]:
        raise DataError(f"image {image_id}: ground truth without {', '.join(missing)}; found: {', '.join(truth)}.")
    labels = torch.as_tensor(truth["labels"])
    if labels.is_floating_point() and labels.numel():
        raise DataError(f"image {image_id}: labels has the type {labels.dtype}; expected integers.")
    if counts := _unequal_lengths(truth, [name for name in (*names, "area", "iscrowd") if name in truth]):
        raise DataError(f"image {image_id}: ground truth with {counts}; equally many of each are expected.")


def _unequal_lengths(values: Mapping[str, Any], names: Sequence[str]) -> str:
    """The number of rows of each of these values, for a message; "" if they are equal."""
    lengths = {name: len(values[name]) for name in names}
    return "" if len(set(lengths.values())) == 1 else ", ".join(f"{count} {name}" for name, count in lengths.items())


def joined_arrays(arrays: Iterable[Any], dtype: type | None = None) -> np.ndarray:
    """Concatenates tensors, arrays or lists; converts half precision, which numpy lacks or handles badly, to float32.

    dtype: the type of the result; None: that of the arrays.
    """
    joined = torch.cat([torch.as_tensor(array) for array in arrays]).detach()
    if joined.dtype in (torch.bfloat16, torch.float16):
        joined = joined.float()
    values: np.ndarray = joined.cpu().numpy()
    return values if dtype is None else values.astype(dtype, copy=False)
