"""COCO's average precision (Lin et al. 2014) for any IoU, and for boxes; identical to pycocotools to the last digit."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, fields
from typing import Any, ClassVar

import numpy as np

from densevit.errors import ConfigError
from densevit.evaluation.backends import AREAS, OneClass, curves, fastest_backend
from densevit.evaluation.box_records import BoxRecords, coco_results
from densevit.evaluation.detection_tables import class_table, mean, precision_recall
from densevit.evaluation.error_analysis import ErrorAnalysis, analyse
from densevit.evaluation.f1_threshold import best_threshold, f1_plots
from densevit.evaluation.object_records import ObjectRecords
from densevit.interfaces import DEFAULT_THRESHOLD, Class, Evaluator, Plot, Predictions, Table, Targets
from densevit.targets.object_targets import xywh

Overlaps = Callable[[np.ndarray, np.ndarray], np.ndarray]  # rows of detections and of truths to IoUs, of one image


@dataclass(frozen=True)
class _Computed:
    metrics: dict[str, float]
    classes: Table
    plots: dict[str, Plot]


class AveragePrecision(Evaluator):
    """Average precision and recall of objects as defined by COCO, for any IoU.

    Metrics: AP (mean over IoU thresholds from 0.5 to 0.95), AP50, AP75, and APs, APm, APl for small, medium and large
    annotated areas; AR1, AR10, AR100, the recall with that many detections per image and class, and ARs, ARm, ARl;
    then `AP/<class name>`. A metric without ground truth, -1 in pycocotools, is nan.

    max_detections: the number of highest-scoring detections used per image and class, above 10; sets the name `AR100`.
    The confusion matrix and the image scores use detections with a score of at least `threshold`.

    Subclasses set `labelled_by`, the target key of labelled images, and `records_type`, and implement `overlaps` and
    `entries`.
    """

    labelled_by: ClassVar[str]
    records_type: ClassVar[type[Any]]
    threshold = DEFAULT_THRESHOLD

    def __init__(self, classes: Sequence[Class], max_detections: int = 100) -> None:
        super().__init__(classes)
        if max_detections <= 10:
            raise ConfigError(f"max_detections is {max_detections}; a number above 10 is expected (COCO's is 100).")
        self.max_detections = max_detections
        self.reset()

    def collected(
        self, ids: Sequence[int | str], predictions: Sequence[Predictions], truths: Sequence[Targets]
    ) -> ObjectRecords:
        """Collects the records of at least one image."""
        records: ObjectRecords = self.records_type.of(ids, predictions, truths)
        return records

    def overlaps(self, records: Any) -> Mapping[str, tuple[np.ndarray, Overlaps]]:
        """The areas of all detections in pixels, and a function that computes IoUs, for each prefix of metric names."""
        raise NotImplementedError

    def entries(self, records: Any, number: int, rows: slice) -> list[dict[str, Any]]:
        """The detections of an image as entries of a COCO results file. number: the image's index. rows: its
        detections."""
        raise NotImplementedError

    def reset(self) -> None:
        """Removes all images."""
        self._parts: list[ObjectRecords] = []
        self._seen: set[int | str] = set()
        self._computed: dict[str, _Computed] = {}  # by prefix, until images are added
        self._analysis: ErrorAnalysis | None = None  # until images are added

    def update(self, predictions: Sequence[Predictions], truths: Sequence[Targets]) -> None:
        """Adds one prediction and one target per image, in original pixels; tensors of any device.

        Ignores images without labels, and images added before.
        """
        new: dict[int | str, tuple[Predictions, Targets]] = {}
        for prediction, truth in zip(predictions, truths, strict=True):
            image_id = truth["image_id"] if isinstance(truth["image_id"], str) else int(truth["image_id"])
            if self.labelled_by in truth and image_id not in self._seen:
                new.setdefault(image_id, (prediction, truth))
        if new:
            predictions, truths = zip(*new.values(), strict=True)
            self._add(self.collected(list(new), predictions, truths))

    def _add(self, records: ObjectRecords) -> None:
        records.check(len(self.classes))
        self._parts.append(records)
        self._computed, self._analysis = {}, None
        self._seen.update(records.ids.tolist())

    def state(self) -> dict[str, np.ndarray]:
        """The records of all images, as arrays by name."""
        records = self._sorted()
        return {field.name: getattr(records, field.name) for field in fields(records)}

    def merge(self, states: Sequence[dict[str, np.ndarray]]) -> None:
        """Replaces the state by the states of all processes; an image in several of them counts once."""
        self.reset()
        for state in states:
            records = self.records_type(**state)
            self._add(records.take([n for n, image_id in enumerate(records.ids) if image_id not in self._seen]))

    def compute(self) -> dict[str, float]:
        """The metrics: fractions 0 ... 1, nan without ground truth."""
        results = self._results().items()
        return {f"{prefix}{name}": value for prefix, result in results for name, value in result.metrics.items()}

    def contributions(self) -> Mapping[int | str, ObjectRecords]:
        records = self._sorted()
        return {image_id: records.take([n]) for n, image_id in enumerate(records.ids)}

    def resampled(self, contributions: Iterable[ObjectRecords]) -> "AveragePrecision":
        sample = copy(self)
        sample._parts, sample._computed, sample._analysis = [*contributions], {}, None
        return sample

    def tables(self) -> dict[str, Table]:
        """AP and AR of each class; errors by type (see `analyse`); the confusion matrix of detections with a score of
        at least `threshold`, background last."""
        results, analysis = self._results(), self._analysed()
        first, *rest = results
        names = [*(c.name for c in self.classes), "background"]
        rows = [[name, *row] for name, row in zip(names, analysis.confusion(self.threshold).tolist(), strict=True)]
        return {
            "classes": results[first].classes,
            **{f"{prefix.rstrip('_')}-classes": results[prefix].classes for prefix in rest},
            "errors": analysis.table(),
            "confusion": [[f"truth \\ prediction, scores from {self.threshold:.4g}", *names], *rows],
        }

    def plots(self) -> dict[str, Plot]:
        """Precision by recall, and F1 by score."""
        curves = f1_plots(*self._analysed().detections, self._objects(), self.classes)
        return {**next(iter(self._results().values())).plots, **curves}

    def score_threshold(self) -> float | None:
        """The score threshold with the largest F1 over all classes, at an IoU of 0.5; None with fewer than 50 objects.
        See `f1_threshold`."""
        _, scores, correct = self._analysed().detections
        return best_threshold(scores, correct, int(self._objects().sum()))

    def _objects(self) -> np.ndarray:
        """The number of ground-truth objects of each class, without crowds, (K,)."""
        records = self._sorted()
        return np.bincount(records.truth_labels[~records.crowds], minlength=len(self.classes))

    def image_scores(self) -> dict[int | str, float]:
        """`ErrorAnalysis.image_scores` of detections with a score of at least `threshold`."""
        return self._analysed().image_scores(self.threshold)

    def _analysed(self) -> ErrorAnalysis:
        if self._analysis is None:
            records = self._sorted()
            _, overlaps = next(iter(self.overlaps(records).values()))
            self._analysis = analyse(records, overlaps, len(self.classes), self.max_detections)
        return self._analysis

    def _results(self) -> "dict[str, _Computed]":
        if not self._computed:
            records = self._sorted()
            objects = self._objects()
            detections = np.bincount(records.labels, minlength=len(self.classes))
            columns = np.argsort(self._order)
            for prefix, (sizes, overlaps) in self.overlaps(records).items():
                precision, recall = self._curves(records, sizes, overlaps)
                metrics = self._summary(precision, recall)
                precision, recall = precision[:, :, columns], recall[:, columns]
                table = class_table(precision, recall, self.classes, objects, detections, self.max_detections)
                plots = precision_recall(precision[..., 0, -1], self.classes)
                self._computed[prefix] = _Computed(metrics, table, plots)
        return self._computed

    def _summary(self, precision: np.ndarray, recall: np.ndarray) -> dict[str, float]:
        areas = {"s": AREAS.index("small"), "m": AREAS.index("medium"), "l": AREAS.index("large")}
        metrics = {"AP": mean(precision[..., 0, -1])}
        metrics |= {"AP50": mean(precision[0, ..., 0, -1]), "AP75": mean(precision[5, ..., 0, -1])}
        metrics |= {f"AP{letter}": mean(precision[..., area, -1]) for letter, area in areas.items()}
        metrics |= {f"AR{most}": mean(recall[..., 0, m]) for m, most in enumerate(self._limits)}
        metrics |= {f"AR{letter}": mean(recall[..., area, -1]) for letter, area in areas.items()}
        column = {index: k for k, index in enumerate(self._order)}
        return metrics | {f"AP/{c.name}": mean(precision[:, :, column[i], 0, -1]) for i, c in enumerate(self.classes)}

    def results(self) -> list[dict[str, Any]]:
        """The evaluated detections, the `max_detections` highest-scoring ones per image and class, as entries of a COCO
        results file, with the file's image and category ids.

        Values are not rounded: pycocotools computes the same metrics from this list as `compute`.
        """
        records = self._sorted()
        ends = np.cumsum(records.detections).tolist()
        entries = []
        for number, (start, end) in enumerate(zip([0, *ends], ends, strict=False)):
            counted = _highest(records.scores[start:end], records.labels[start:end], self.max_detections)
            image_entries = self.entries(records, number, slice(start, end))
            entries += [entry for entry, counts in zip(image_entries, counted.tolist(), strict=True) if counts]
        return entries

    @property
    def _limits(self) -> tuple[int, ...]:
        return (1, 10, self.max_detections)

    @property
    def _order(self) -> list[int]:
        """Class indices sorted by file id: pycocotools' order, on which float sums depend."""
        return sorted(range(len(self.classes)), key=lambda index: self.classes[index].file_id)

    def _sorted(self) -> ObjectRecords:
        return self.records_type.joined(self._parts).sorted()

    def _curves(self, records: ObjectRecords, sizes: np.ndarray, overlaps: Overlaps) -> tuple[np.ndarray, np.ndarray]:
        """Precision (T, R, K, A, M) and recall (T, K, A, M), classes in `_order`; -1 without ground truth."""
        backend = fastest_backend()
        numbers = np.arange(len(records.ids))
        images, truth_images = np.repeat(numbers, records.detections), np.repeat(numbers, records.truths)
        rows_of = _rows_by_label(records.labels, len(self.classes))
        truths_of = _rows_by_label(records.truth_labels, len(self.classes))

        precision = np.full((10, 101, len(self.classes), len(AREAS), len(self._limits)), -1.0)
        recall = np.full((10, len(self.classes), len(AREAS), len(self._limits)), -1.0)
        for k, index in enumerate(self._order):
            rows, truths = rows_of[index], truths_of[index]
            if len(truths):
                one_class = OneClass(
                    images=images[rows],
                    sizes=sizes[rows],
                    scores=records.scores[rows],
                    truth_images=truth_images[truths],
                    areas=records.areas[truths],
                    crowds=records.crowds[truths],
                    overlaps=_restricted(overlaps, rows, truths),
                )
                precision[:, :, k], recall[:, k] = curves(backend, one_class, self._limits)
        return precision, recall


class CocoDetection(AveragePrecision):
    """Average precision and recall of boxes, as defined by COCO.

    predictions: boxes (M, 4) xyxy, scores (M,), labels (M,). truths: image_id, boxes (N, 4) xyxy, labels (N,),
    area (N,), iscrowd (N,). An image without `boxes` is unlabelled. Metrics and max_detections: see `AveragePrecision`.
    """

    reads = ("boxes", "scores", "labels")
    main = "AP"
    labelled_by = "boxes"
    records_type = BoxRecords

    def overlaps(self, records: BoxRecords) -> Mapping[str, tuple[np.ndarray, Overlaps]]:
        from pycocotools import mask as codes  # slow to import

        boxes, truth_boxes = xywh(records.boxes), xywh(records.truth_boxes)

        def ious(rows: np.ndarray, truths: np.ndarray) -> np.ndarray:
            return np.asarray(codes.iou(boxes[rows], truth_boxes[truths], records.crowds[truths].tolist()))

        return {"": (boxes[:, 2] * boxes[:, 3], ious)}

    def entries(self, records: BoxRecords, number: int, rows: slice) -> list[dict[str, Any]]:
        boxes, scores, labels = records.boxes[rows], records.scores[rows], records.labels[rows]
        return coco_results(records.ids[number], boxes, scores, labels, self.classes)


def _restricted(overlaps: Overlaps, rows: np.ndarray, truths: np.ndarray) -> Overlaps:
    """`overlaps` for indices into `rows` and `truths`."""
    return lambda d, g: overlaps(rows[d], truths[g])


def _highest(scores: np.ndarray, labels: np.ndarray, limit: int) -> np.ndarray:
    """Whether each detection of an image is among the `limit` highest scores of its class, (D,) bool. Of equal scores,
    earlier detections count, as in pycocotools."""
    order = np.lexsort((-scores, labels))
    first = np.searchsorted(labels[order], labels[order])
    counted = np.empty(len(scores), bool)
    counted[order] = np.arange(len(scores)) - first < limit
    return counted


def _rows_by_label(labels: np.ndarray, classes: int) -> list[np.ndarray]:
    """The rows of each class, in ascending order."""
    order = np.argsort(labels, kind="stable")
    return np.split(order, np.searchsorted(labels[order], np.arange(1, classes)))
