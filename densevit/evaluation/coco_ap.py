"""COCO's average precision (Lin et al. 2014) for any IoU, and for boxes; identical to pycocotools to the last digit."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from densevit.errors import ConfigError
from densevit.evaluation.backends import AREAS, OneClass, curves, fastest_backend
from densevit.evaluation.box_records import BoxRecords
from densevit.evaluation.detection_tables import class_table, mean, precision_recall
from densevit.evaluation.error_analysis import ErrorAnalysis, analyse
from densevit.evaluation.f1_threshold import best_threshold, f1_plots
from densevit.evaluation.object_records import ImageRecord, ObjectRecords, joined
from densevit.interfaces import DEFAULT_THRESHOLD, Classes, Evaluator, Plot, Predictions, Table, Targets, image_id
from densevit.interfaces.evaluators import once_per_records
from densevit.targets.labelled_classes import by_class
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

    In an image with `labelled`, a detection of another class that matches no object is ignored, as in LVIS' federated
    evaluation (Gupta et al. 2019, section 3.2): neither its `neg_category_ids` nor its objects tell that it is wrong.

    max_detections: the number of highest-scoring detections used per image and class, above 10; sets the name `AR100`.

    Subclasses set `labelled_by`, the target key of labelled images, and `records_type`, and implement `overlaps` and
    `entries`.
    """

    uses_threshold = True
    labelled_by: ClassVar[str]
    records_type: ClassVar[type[ObjectRecords]]

    def __init__(self, classes: Classes, max_detections: int = 100) -> None:
        super().__init__(classes)
        if max_detections <= 10:
            raise ConfigError(f"max_detections is {max_detections}; a number above 10 is expected (COCO's is 100).")
        self.max_detections = max_detections

    def collected(
        self, ids: Sequence[int | str], predictions: Sequence[Predictions], truths: Sequence[Targets]
    ) -> ObjectRecords:
        """Collects the records of at least one image."""
        raise NotImplementedError

    def overlaps(self, objects: Any) -> Mapping[str, tuple[np.ndarray, Overlaps]]:
        """The areas of all detections in pixels, and a function that computes IoUs, for each prefix of metric names."""
        raise NotImplementedError

    def record(self, prediction: Predictions, truth: Targets) -> ImageRecord | None:
        """Raises an error for a prediction that is not finite, for an invalid label, and for arrays that differ in
        length."""
        [record] = self.batch_records([prediction], [truth])
        return record

    def batch_records(self, predictions: Sequence[Predictions], truths: Sequence[Targets]) -> list[ImageRecord | None]:
        labelled = [n for n, truth in enumerate(truths) if self.labelled_by in truth]
        records: list[ImageRecord | None] = [None] * len(truths)
        if labelled:
            predictions, truths = ([side[n] for n in labelled] for side in (predictions, truths))
            ids = [image_id(truth) for truth in truths]
            batch = self.collected(ids, predictions, by_class([*truths], self.classes))
            batch.check(ids, len(self.classes))
            for number, n in enumerate(labelled):
                records[n] = ImageRecord(batch, number)
        return records

    def compute(self, records: Sequence[ImageRecord]) -> dict[str, float]:
        """The metrics: fractions 0 ... 1, nan without ground truth."""
        results = self._results(records).items()
        return {f"{prefix}{name}": value for prefix, result in results for name, value in result.metrics.items()}

    def tables(self, records: Sequence[ImageRecord], threshold: float = DEFAULT_THRESHOLD) -> dict[str, Table]:
        """AP and AR of each class; errors by type (see `analyse`); the confusion matrix of detections with a score of
        at least `threshold`, background last."""
        results, analysis = self._results(records), self._analysed(records)
        first, *rest = results
        names = [*(c.name for c in self.classes), "background"]
        rows = [[name, *row] for name, row in zip(names, analysis.confusion(threshold).tolist(), strict=True)]
        return {
            "classes": results[first].classes,
            **{f"{prefix.rstrip('_')}-classes": results[prefix].classes for prefix in rest},
            "errors": analysis.table(),
            "confusion": [[f"truth \\ prediction, scores from {threshold:.4g}", *names], *rows],
        }

    def plots(self, records: Sequence[ImageRecord]) -> dict[str, Plot]:
        """Precision by recall, and F1 by score."""
        analysis = self._analysed(records)
        curves = f1_plots(*analysis.detections, analysis.objects, self.classes)
        return {**next(iter(self._results(records).values())).plots, **curves}

    def score_threshold(self, records: Sequence[ImageRecord]) -> float | None:
        """The score threshold with the largest F1 over all classes, at an IoU of 0.5; None with fewer than 50 objects.
        See `f1_threshold`."""
        analysis = self._analysed(records)
        _, scores, correct = analysis.detections
        return best_threshold(scores, correct, int(analysis.objects.sum()))

    def image_scores(self, records: Sequence[ImageRecord], threshold: float = DEFAULT_THRESHOLD) -> list[float | None]:
        """`ErrorAnalysis.image_scores` of detections with a score of at least `threshold`."""
        return self._analysed(records).image_scores(threshold)

    @once_per_records
    def _analysed(self, records: Sequence[ImageRecord]) -> ErrorAnalysis:
        objects = joined(records, self.records_type)
        _, overlaps = next(iter(self.overlaps(objects).values()))
        return analyse(objects, overlaps, len(self.classes), self.max_detections)

    @once_per_records
    def _results(self, records: Sequence[ImageRecord]) -> dict[str, _Computed]:
        objects, computed = joined(records, self.records_type), {}
        truths = np.bincount(objects.truth_labels[~objects.crowds], minlength=len(self.classes))
        detections = np.bincount(objects.labels, minlength=len(self.classes))
        columns = np.argsort(self._order)
        for prefix, (sizes, overlaps) in self.overlaps(objects).items():
            precision, recall = self._curves(objects, sizes, overlaps)
            metrics = self._summary(precision, recall)
            precision, recall = precision[:, :, columns], recall[:, columns]
            table = class_table(precision, recall, self.classes, truths, detections, self.max_detections)
            plots = precision_recall(precision[..., 0, -1], self.classes)
            computed[prefix] = _Computed(metrics, table, plots)
        return computed

    def _summary(self, precision: np.ndarray, recall: np.ndarray) -> dict[str, float]:
        areas = {"s": AREAS.index("small"), "m": AREAS.index("medium"), "l": AREAS.index("large")}
        metrics = {"AP": mean(precision[..., 0, -1])}
        metrics |= {"AP50": mean(precision[0, ..., 0, -1]), "AP75": mean(precision[5, ..., 0, -1])}
        metrics |= {f"AP{letter}": mean(precision[..., area, -1]) for letter, area in areas.items()}
        metrics |= {f"AR{most}": mean(recall[..., 0, m]) for m, most in enumerate(self._limits)}
        metrics |= {f"AR{letter}": mean(recall[..., area, -1]) for letter, area in areas.items()}
        column = {index: k for k, index in enumerate(self._order)}
        return metrics | {f"AP/{c.name}": mean(precision[:, :, column[i], 0, -1]) for i, c in enumerate(self.classes)}

    def entries(self, record: ImageRecord) -> list[dict[str, Any]]:
        """The evaluated detections, the `max_detections` highest-scoring ones per class, as entries of a COCO results
        file, with the file's category ids.

        Values are not rounded: pycocotools computes the same metrics from them as `compute`.
        """
        objects = joined([record], self.records_type)
        counted = _highest(objects.scores, objects.labels, self.max_detections)
        columns = [x.tolist() for x in (objects.labels, objects.scores, counted)]
        ids = [c.file_id for c in self.classes]
        return [
            {"category_id": ids[label], **shape, "score": score}
            for label, score, counts, shape in zip(*columns, self.shapes(objects), strict=True)
            if counts
        ]

    def shapes(self, objects: Any) -> list[dict[str, Any]]:
        """The box or mask of each detection of an image, as in a COCO results file. objects: an instance of
        `records_type`."""
        raise NotImplementedError

    @property
    def _limits(self) -> tuple[int, ...]:
        return (1, 10, self.max_detections)

    @property
    def _order(self) -> list[int]:
        """Class indices sorted by file id: pycocotools' order, on which float sums depend."""
        return sorted(range(len(self.classes)), key=lambda index: self.classes[index].file_id)

    def _curves(self, objects: Any, sizes: np.ndarray, overlaps: Overlaps) -> tuple[np.ndarray, np.ndarray]:
        """Precision (T, R, K, A, M) and recall (T, K, A, M), classes in `_order`; -1 without ground truth."""
        backend = fastest_backend()
        counts = np.diff(objects.detections), np.diff(objects.truths)
        images, truth_images = (np.repeat(np.arange(len(rows)), rows) for rows in counts)
        sizes = np.where(objects.unlabelled, -1, sizes)  # outside of all ranges: ignored if it matches no object
        rows_of = _rows_by_label(objects.labels, len(self.classes))
        truths_of = _rows_by_label(objects.truth_labels, len(self.classes))

        precision = np.full((10, 101, len(self.classes), len(AREAS), len(self._limits)), -1.0)
        recall = np.full((10, len(self.classes), len(AREAS), len(self._limits)), -1.0)
        for k, index in enumerate(self._order):
            rows, truths = rows_of[index], truths_of[index]
            if len(truths):
                one_class = OneClass(
                    images=images[rows],
                    sizes=sizes[rows],
                    scores=objects.scores[rows],
                    truth_images=truth_images[truths],
                    areas=objects.areas[truths],
                    crowds=objects.crowds[truths],
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

    def collected(
        self, ids: Sequence[int | str], predictions: Sequence[Predictions], truths: Sequence[Targets]
    ) -> BoxRecords:
        return BoxRecords.of(ids, predictions, truths)

    def overlaps(self, objects: Any) -> Mapping[str, tuple[np.ndarray, Overlaps]]:
        from pycocotools import mask as codes  # slow to import

        boxes, truth_boxes, crowds = xywh(objects.boxes), xywh(objects.truth_boxes), objects.crowds

        def ious(rows: np.ndarray, truths: np.ndarray) -> np.ndarray:
            return np.asarray(codes.iou(boxes[rows], truth_boxes[truths], crowds[truths].tolist()))

        return {"": (boxes[:, 2] * boxes[:, 3], ious)}

    def shapes(self, objects: BoxRecords) -> list[dict[str, Any]]:
        return [{"bbox": box} for box in xywh(objects.boxes).tolist()]


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
