"""COCO's average precision of boxes (Lin et al. 2014), identical to pycocotools' to the last digit."""

from collections.abc import Sequence
from dataclasses import fields
from typing import Any

import numpy as np

from densevit.errors import ConfigError
from densevit.evaluation.backends import AREAS, OneClass, curves, fastest_backend
from densevit.evaluation.box_records import BoxRecords, coco_results, xywh
from densevit.interfaces import Class, Evaluator, Predictions, Targets

_Image = tuple[Predictions, Targets]


class CocoDetection(Evaluator):
    """Average precision and recall of boxes, as defined by COCO.

    Metrics: AP (mean over IoU thresholds from 0.5 to 0.95), AP50, AP75, and APs, APm, APl for small, medium and large
    areas of annotations; AR1, AR10, AR100, the recall with that many detections per image and class, and ARs, ARm, ARl;
    then `AP/<class name>`. A metric without ground truth, -1 in pycocotools, is nan.

    max_detections: detections with the highest scores used per image and class; above 10. `AR100` is named after it.
    """

    reads = ("boxes", "scores", "labels")
    main = "AP"

    def __init__(self, classes: Sequence[Class], max_detections: int = 100) -> None:
        super().__init__(classes)
        if max_detections <= 10:
            raise ConfigError(f"max_detections is {max_detections}; a number above 10 is expected (COCO's is 100).")
        self.max_detections = max_detections
        self.reset()

    def reset(self) -> None:
        """Removes all images."""
        self._parts: list[BoxRecords] = []
        self._seen: set[int | str] = set()

    def update(self, predictions: Sequence[Predictions], truths: Sequence[Targets]) -> None:
        """Adds one prediction and one target per image, in original pixels; tensors of any device.

        predictions: boxes (M, 4) xyxy, scores (M,), labels (M,). truths: image_id, boxes (N, 4) xyxy, labels (N,),
        area (N,), iscrowd (N,). An image without `boxes` is unlabelled and ignored, as is one already added.
        """
        new: dict[int | str, _Image] = {}
        for found, truth in zip(predictions, truths, strict=True):
            image_id = truth["image_id"] if isinstance(truth["image_id"], str) else int(truth["image_id"])
            if "boxes" in truth and image_id not in self._seen:
                new.setdefault(image_id, (found, truth))
        if new:
            self._add(
                BoxRecords.of(list(new), [found for found, _ in new.values()], [truth for _, truth in new.values()])
            )

    def _add(self, records: BoxRecords) -> None:
        records.check(len(self.classes))
        self._parts.append(records)
        self._seen.update(records.ids.tolist())

    def state(self) -> dict[str, np.ndarray]:
        """All images, as arrays by name."""
        records = self._sorted()
        return {field.name: getattr(records, field.name) for field in fields(records)}

    def merge(self, states: Sequence[dict[str, np.ndarray]]) -> None:
        """Replaces the state by those of all processes; an image from several processes counts once."""
        self.reset()
        for state in states:
            records = BoxRecords(**state)
            self._add(records.take([n for n, image_id in enumerate(records.ids) if image_id not in self._seen]))

    def compute(self) -> dict[str, float]:
        """The metrics of all images: fractions 0 ... 1, nan without ground truth."""
        precision, recall = self._curves()
        areas = {"s": AREAS.index("small"), "m": AREAS.index("medium"), "l": AREAS.index("large")}
        metrics = {"AP": _mean(precision[..., 0, -1])}
        metrics |= {"AP50": _mean(precision[0, ..., 0, -1]), "AP75": _mean(precision[5, ..., 0, -1])}
        metrics |= {f"AP{letter}": _mean(precision[..., area, -1]) for letter, area in areas.items()}
        metrics |= {f"AR{most}": _mean(recall[..., 0, m]) for m, most in enumerate(self._limits)}
        metrics |= {f"AR{letter}": _mean(recall[..., area, -1]) for letter, area in areas.items()}
        place = {index: k for k, index in enumerate(self._order)}
        return metrics | {f"AP/{c.name}": _mean(precision[:, :, place[i], 0, -1]) for i, c in enumerate(self.classes)}

    def results(self) -> list[dict[str, Any]]:
        """All detections as entries of a COCO results file, with the files' image and category ids.

        Without rounding: pycocotools on this list gives the same metrics as `compute`.
        """
        records = self._sorted()
        ends = np.cumsum(records.detections)
        entries = []
        for image_id, start, end in zip(records.ids, ends - records.detections, ends, strict=True):
            boxes, scores, labels = (part[start:end] for part in (records.boxes, records.scores, records.labels))
            entries += coco_results(image_id, boxes, scores, labels, self.classes)
        return entries

    @property
    def _limits(self) -> tuple[int, ...]:
        return (1, 10, self.max_detections)

    @property
    def _order(self) -> list[int]:
        """Class indices sorted by file id, the order in which pycocotools sums; float sums depend on it."""
        return sorted(range(len(self.classes)), key=lambda index: self.classes[index].file_id)

    def _sorted(self) -> BoxRecords:
        """All images sorted by id, numbers before strings, so that results do not depend on the order of batches."""
        records = BoxRecords.joined(self._parts)
        ids = records.ids
        return records.take(sorted(range(len(ids)), key=lambda n: (isinstance(ids[n], str), ids[n])))

    def _curves(self) -> tuple[np.ndarray, np.ndarray]:
        """Precision (T, R, K, A, M) and recall (T, K, A, M), classes in `_order`; -1 without ground truth."""
        records, backend = self._sorted(), fastest_backend()
        numbers = np.arange(len(records.ids))
        images, truth_images = np.repeat(numbers, records.detections), np.repeat(numbers, records.truths)
        boxes, truth_boxes = xywh(records.boxes), xywh(records.truth_boxes)
        rows_of = _rows_by_label(records.labels, len(self.classes))
        truths_of = _rows_by_label(records.truth_labels, len(self.classes))

        precision = np.full((10, 101, len(self.classes), len(AREAS), len(self._limits)), -1.0)
        recall = np.full((10, len(self.classes), len(AREAS), len(self._limits)), -1.0)
        for k, index in enumerate(self._order):
            rows, truths = rows_of[index], truths_of[index]
            if len(truths):
                one_class = OneClass(
                    images=images[rows],
                    boxes=boxes[rows],
                    scores=records.scores[rows],
                    truth_images=truth_images[truths],
                    truth_boxes=truth_boxes[truths],
                    areas=records.areas[truths],
                    crowds=records.crowds[truths],
                )
                precision[:, :, k], recall[:, k] = curves(backend, one_class, self._limits)
        return precision, recall


def _rows_by_label(labels: np.ndarray, classes: int) -> list[np.ndarray]:
    """The rows of each class, in their order."""
    order = np.argsort(labels, kind="stable")
    return np.split(order, np.searchsorted(labels[order], np.arange(1, classes)))


def _mean(values: np.ndarray) -> float:
    """The mean of valid values, summed in pycocotools' order; nan if there are none."""
    known = values[values > -1]
    return float(np.mean(known)) if known.size else float("nan")
