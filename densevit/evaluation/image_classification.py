"""Accuracy of image classification: top-1, top-5 and per class."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch

from densevit.errors import ConfigError, DataError
from densevit.interfaces import Class, Evaluator, Predictions, Table, Targets

_Id = int | str


class _Image(NamedTuple):
    """label, predicted: class indices.

    rank: the label's rank among all classes by score, from 0. score: the label's score.
    """

    label: int
    predicted: int
    rank: int
    score: float


class Classification(Evaluator):
    """The share of images whose class has the highest score (`top1`), or one of the five highest (`top5`).

    Of equal scores, the class with the lower index ranks higher. mAcc: the mean over classes with images of the share
    of correct images.

    If the data has only some of the model's classes, the scores of all other classes are left out before the maximum,
    as usual for ImageNet-A and ImageNet-R.
    """

    reads = ("class_scores",)
    main = "top1"
    by_image = "_images"

    def __init__(self, classes: Sequence[Class]) -> None:
        super().__init__(classes)
        if not self.classes:
            raise ConfigError("The data has no image classes; at least one is needed.")
        self.reset()

    def reset(self) -> None:
        """Removes all images."""
        self._images: dict[_Id, _Image] = {}

    def update(self, predictions: Sequence[Predictions], truths: Sequence[Targets]) -> None:
        """Adds one prediction and one target per image.

        predictions: class_scores (K,). truths: image_id, image_class (). Ignores images without `image_class`, of class
        -1, or added before. Raises DataError for a wrong number of scores and for an invalid label.
        """
        for prediction, truth in zip(predictions, truths, strict=True):
            image_id = truth["image_id"] if isinstance(truth["image_id"], str) else int(truth["image_id"])
            if "image_class" in truth and image_id not in self._images and int(truth["image_class"]) >= 0:
                self._images[image_id] = self._image(image_id, prediction, int(truth["image_class"]))

    def _image(self, image_id: _Id, prediction: Predictions, label: int) -> _Image:
        if "class_scores" not in prediction:
            keys = ", ".join(prediction) or "nothing"
            raise DataError(f"Image {image_id!r}: its prediction has no `class_scores`, only {keys}.")
        scores = torch.as_tensor(prediction["class_scores"]).detach().float().cpu().numpy()
        if scores.shape != (len(self.classes),):
            raise DataError(
                f"Image {image_id!r}: `class_scores` has the shape {scores.shape}; expected ({len(self.classes)},), "
                "one score per class."
            )
        if label >= len(self.classes):
            raise DataError(
                f"Image {image_id!r}: `image_class` is {label}; 0 ... {len(self.classes) - 1} is expected, for "
                f"{len(self.classes)} classes."
            )
        rank = int((scores > scores[label]).sum() + (scores[:label] == scores[label]).sum())
        return _Image(label, int(scores.argmax()), rank, float(scores[label]))

    def state(self) -> dict[_Id, _Image]:
        """The result of each image, by id."""
        return self._images

    def merge(self, states: Sequence[dict[_Id, _Image]]) -> None:
        """Replaces the state by the states of all processes; an image in several of them counts once."""
        merged: dict[_Id, _Image] = {}
        for state in states:
            merged = state | merged
        self._images = merged

    def compute(self) -> dict[str, float]:
        """The metrics: fractions 0 ... 1, nan without images."""
        ranks = np.array([image.rank for image in self._images.values()])
        if not len(ranks):
            return {"top1": math.nan, "top5": math.nan, "mAcc": math.nan}
        counts = self.counts
        images = counts.sum(1)
        recall = counts.diagonal()[images > 0] / images[images > 0]
        return {"top1": float((ranks < 1).mean()), "top5": float((ranks < 5).mean()), "mAcc": float(recall.mean())}

    @property
    def counts(self) -> np.ndarray:
        """The confusion matrix, (K, K) int64: images by class in ground truth (rows) and prediction (columns)."""
        counts = np.zeros((len(self.classes), len(self.classes)), np.int64)
        for image in self._images.values():
            counts[image.label, image.predicted] += 1
        return counts

    def tables(self) -> dict[str, Table]:
        """Images, recall and precision per class; the confusion matrix."""
        names, counts = [c.name for c in self.classes], self.counts
        with np.errstate(invalid="ignore"):
            recall, precision = (np.divide(counts.diagonal(), counts.sum(axis)) for axis in (1, 0))
        columns = (names, counts.sum(1).tolist(), recall.tolist(), precision.tolist())
        rows = [[name, *row] for name, row in zip(names, counts.tolist(), strict=True)]
        return {
            "classes": [["class", "images", "recall", "precision"], *zip(*columns, strict=True)],
            "confusion": [["truth \\ prediction", *names], *rows],
        }

    def image_scores(self) -> dict[_Id, float]:
        """Each image's score of its true class."""
        return {image_id: image.score for image_id, image in self._images.items()}
