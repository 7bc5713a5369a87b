"""Panoptic, segmentation and recognition quality of classes and images, from matched segments."""

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from densevit.evaluation.segment_matching import FALSE_NEGATIVE, FALSE_POSITIVE, SEGMENT, TRUE_POSITIVE

_COUNTED = [TRUE_POSITIVE, FALSE_POSITIVE, FALSE_NEGATIVE]


class Quality(NamedTuple):
    """The quality of a class or an image. iou: the sum over matched pairs."""

    iou: float
    tp: int
    fp: int
    fn: int

    @property
    def pq(self) -> float:
        return self._over_segments(self.iou)

    @property
    def rq(self) -> float:
        return self._over_segments(self.tp)

    @property
    def sq(self) -> float:
        return self.iou / self.tp if self.tp else self._over_segments(0)

    def _over_segments(self, value: float) -> float:
        return value / (self.tp + 0.5 * self.fp + 0.5 * self.fn) if self.tp + self.fp + self.fn else math.nan


def qualities(images: Iterable[np.ndarray], classes: int) -> list[Quality]:
    """The quality of each class; exactly rounded sums make it independent of the order of images.

    images: the segments of each image, (S,) of type `SEGMENT`.
    """
    segments = np.concatenate([np.zeros(0, SEGMENT), *images])
    counts = np.bincount(3 * segments["label"] + segments["outcome"], minlength=3 * classes).reshape(classes, 3)
    order = np.argsort(segments["label"], kind="stable")
    ious = np.split(segments["iou"][order], np.cumsum(counts.sum(1))[:-1])
    rows = counts[:, _COUNTED].tolist()
    return [Quality(math.fsum(class_ious), *row) for class_ious, row in zip(ious, rows, strict=True)]


def image_quality(segments: np.ndarray) -> Quality:
    """The quality of an image over segments of all classes."""
    counts = np.bincount(segments["outcome"], minlength=3)[_COUNTED].tolist()
    return Quality(math.fsum(segments["iou"]), *counts)


def means(classes: Sequence[Quality]) -> dict[str, float]:
    """The mean PQ, SQ and RQ of classes."""
    values = {"PQ": [x.pq for x in classes], "SQ": [x.sq for x in classes], "RQ": [x.rq for x in classes]}
    return {name: mean(by_class) for name, by_class in values.items()}


def mean(values: Sequence[float]) -> float:
    """The mean of valid values; nan if there are none."""
    valid = [value for value in values if not math.isnan(value)]
    return math.fsum(valid) / len(valid) if valid else math.nan
