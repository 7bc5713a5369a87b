"""Predicted objects and ground truth of many images in flat arrays, small and fast to pickle."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from typing import Any, ClassVar, TypeVar

import numpy as np
import torch

from densevit.errors import DataError, PluginError
from densevit.interfaces import Predictions, Targets

_Records = TypeVar("_Records", bound="ObjectRecords")


@dataclass(frozen=True)
class ObjectRecords:
    """I images with D detections and G ground-truth objects, sorted by image.

    ids: (I,) objects, int or str. detections, truths: (I,), rows per image. areas: (G,), as annotated. crowds: (G,)
    bool. Subclasses add arrays and list them in `per_detection` or `per_truth` if they have one row per detection or
    ground-truth object.
    """

    ids: np.ndarray
    detections: np.ndarray
    scores: np.ndarray  # (D,)
    labels: np.ndarray  # (D,)
    truths: np.ndarray
    truth_labels: np.ndarray  # (G,)
    areas: np.ndarray
    crowds: np.ndarray

    per_detection: ClassVar[tuple[str, ...]] = ("scores", "labels")
    per_truth: ClassVar[tuple[str, ...]] = ("truth_labels", "areas", "crowds")

    @classmethod
    def empty(cls) -> dict[str, np.ndarray]:
        """The arrays of no images, with their types."""
        return {
            "ids": np.zeros(0, object),
            "detections": np.zeros(0, int),
            "scores": np.zeros(0, np.float32),
            "labels": np.zeros(0, int),
            "truths": np.zeros(0, int),
            "truth_labels": np.zeros(0, int),
            "areas": np.zeros(0, np.float32),
            "crowds": np.zeros(0, bool),
        }

    @classmethod
    def joined(cls: type[_Records], parts: Iterable[_Records]) -> _Records:
        """Concatenates records."""
        parts = [cls(**cls.empty()), *parts]
        return cls(
            **{field.name: np.concatenate([getattr(part, field.name) for part in parts]) for field in fields(cls)}
        )

    def take(self: _Records, images: Sequence[int]) -> _Records:
        """Selects images by index, in this order."""
        numbers = np.array(images, int)
        rows, truth_rows = rows_of(numbers, self.detections), rows_of(numbers, self.truths)
        chosen = {}
        for field in fields(self):
            per_row = truth_rows if field.name in self.per_truth else numbers
            per_row = rows if field.name in self.per_detection else per_row
            chosen[field.name] = getattr(self, field.name)[per_row]
        return type(self)(**chosen)

    def sorted(self: _Records) -> _Records:
        """All images sorted by id, numbers before strings, so that results do not depend on the order of batches."""
        ids = self.ids
        return self.take(sorted(range(len(ids)), key=lambda n: (isinstance(ids[n], str), ids[n])))

    def finite(self) -> np.ndarray:
        """Whether each detection is finite, (D,)."""
        return np.isfinite(self.scores)

    def check(self, classes: int) -> None:
        """Raises an error with the image's id for a prediction that is not finite and for an invalid label."""
        image_of, truth_image_of = np.repeat(self.ids, self.detections), np.repeat(self.ids, self.truths)
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


def check_lengths(image_id: int | str, predictions: Predictions, names: Sequence[str]) -> None:
    """Raises PluginError unless these predictions of an image have equally many rows."""
    lengths = {name: len(predictions[name]) for name in names}
    if len(set(lengths.values())) > 1:
        counts = ", ".join(f"{count} {name}" for name, count in lengths.items())
        raise PluginError(
            f"image {image_id}: predictions with {counts}. A head's predict() must return equally many of each."
        )


def check_truth_lengths(image_id: int | str, truth: Targets, names: Sequence[str]) -> None:
    """Raises DataError unless the ground truth's values of the keys `names`, `area` and `iscrowd` are equally long."""
    lengths = {name: len(truth[name]) for name in (*names, "area", "iscrowd") if name in truth}
    if len(set(lengths.values())) > 1:
        counts = ", ".join(f"{count} {name}" for name, count in lengths.items())
        raise DataError(f"image {image_id}: ground truth with {counts}; equally many of each are expected.")


def joined_arrays(arrays: Iterable[Any]) -> np.ndarray:
    """Concatenates tensors or arrays; converts half precision, which numpy lacks or handles badly, to float32."""
    joined = torch.cat([torch.as_tensor(array) for array in arrays]).detach()
    if joined.dtype in (torch.bfloat16, torch.float16):
        joined = joined.float()
    values: np.ndarray = joined.cpu().numpy()
    return values


def rows_of(images: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """The rows of images, where image i has counts[i] rows."""
    starts, chosen = np.cumsum(counts) - counts, counts[images]
    within = np.arange(chosen.sum()) - np.repeat(np.cumsum(chosen) - chosen, chosen)
    return np.repeat(starts[images], chosen) + within
