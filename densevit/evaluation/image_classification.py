"""Accuracy of image classification: top-1, top-5 and per class."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch

from densevit.errors import ConfigError, DataError
from densevit.interfaces import DEFAULT_THRESHOLD, Classes, Evaluator, Predictions, Table, Targets, image_id


class ClassRank(NamedTuple):
    """What is kept of an image. label, predicted: class indices.

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
    truth_key = "image_class"
    main = "top1"

    def __init__(self, classes: Classes) -> None:
        super().__init__(classes)
        if not self.classes:
            raise ConfigError("The data has no image classes; at least one is needed.")

    def record(self, prediction: Predictions, truth: Targets) -> ClassRank | None:
        """prediction: class_scores (K,). truth: image_class (); -1 = unlabelled.

        Raises DataError for a wrong number of scores and for an invalid label.
        """
        label = int(truth.get("image_class", -1))
        return None if label < 0 else self._rank(image_id(truth), prediction, label)

    def _rank(self, image_id: int | str, prediction: Predictions, label: int) -> ClassRank:
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
        return ClassRank(label, int(scores.argmax()), rank, float(scores[label]))

    def compute(self, records: Sequence[ClassRank]) -> dict[str, float]:
        """The metrics: fractions 0 ... 1, nan without images."""
        ranks = np.array([image.rank for image in records])
        if not len(ranks):
            return {"top1": math.nan, "top5": math.nan, "mAcc": math.nan}
        counts = self.counts(records)
        images = counts.sum(1)
        recall = counts.diagonal()[images > 0] / images[images > 0]
        return {"top1": float((ranks < 1).mean()), "top5": float((ranks < 5).mean()), "mAcc": float(recall.mean())}

    def counts(self, records: Sequence[ClassRank]) -> np.ndarray:
        """The confusion matrix, (K, K) int64: images by class in ground truth (rows) and prediction (columns)."""
        counts = np.zeros((len(self.classes), len(self.classes)), np.int64)
        for image in records:
            counts[image.label, image.predicted] += 1
        return counts

    def tables(self, records: Sequence[ClassRank], threshold: float = DEFAULT_THRESHOLD) -> dict[str, Table]:
        """Images, recall and precision per class; the confusion matrix."""
        names, counts = [c.name for c in self.classes], self.counts(records)
        with np.errstate(invalid="ignore"):
            recall, precision = (np.divide(counts.diagonal(), counts.sum(axis)) for axis in (1, 0))
        columns = (names, counts.sum(1).tolist(), recall.tolist(), precision.tolist())
        rows = [[name, *row] for name, row in zip(names, counts.tolist(), strict=True)]
        return {
            "classes": [["class", "images", "recall", "precision"], *zip(*columns, strict=True)],
            "confusion": [["truth \\ prediction", *names], *rows],
        }

    def image_scores(self, records: Sequence[ClassRank], threshold: float = DEFAULT_THRESHOLD) -> list[float | None]:
        """Each image's score of its true class."""
        return [image.score for image in records]
