"""Panoptic quality (Kirillov et al. 2019), with mask AP and mIoU of the same predictions in one table."""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

from densevit.errors import ConfigError, DataError, DensevitError, PluginError
from densevit.evaluation.coco_masks import CocoMasks
from densevit.evaluation.miou import LabelCounts, SemanticSegmentation
from densevit.evaluation.object_records import ImageRecord
from densevit.evaluation.panoptic_quality import Quality, image_quality, mean, means, qualities
from densevit.evaluation.segment_matching import match_segments
from densevit.interfaces import (
    DEFAULT_THRESHOLD,
    IGNORE,
    LABEL_DIVISOR,
    VOID,
    Classes,
    Dataset,
    Evaluator,
    Head,
    Plot,
    Predictions,
    Table,
    Targets,
    image_id,
)
from densevit.interfaces.evaluators import once_per_records


class PanopticRecord(NamedTuple):
    """What is kept of an image: its segments (`match_segments`); the records of instance masks and of the label map,
    if they are evaluated."""

    segments: np.ndarray
    masks: ImageRecord | None
    semantic: LabelCounts | None


class Panoptic(Evaluator):
    """Panoptic, segmentation and recognition quality, as defined by panopticapi.

    predictions: panoptic (H, W) integers, class index * 1000 + instance number, -1 = void. truths: image_id, panoptic
    in the same form, and panoptic_crowds, the ids of crowds (default: none). Ignores images without `panoptic` in their
    target, and images added before. Matching: see `match_segments`; of several crowds of a class, panopticapi uses the
    last, this evaluator all.

    With the sum of the IoUs of all matched pairs of a class, and TP, FP, FN over all images:

        SQ           IoU / TP; 0 without a match
        RQ           TP / (TP + FP / 2 + FN / 2)
        PQ           SQ * RQ
        PQ, SQ, RQ   the means over classes with segments in the ground truth or in predictions
        PQ_th, ...   the means over things; PQ_st, ...: over stuff
        PQ/<class>   of each class; nan without segments

    The same predictions are evaluated for two more tasks, in one table:

    masks: adds the metrics of `CocoMasks` from `masks`, `scores` and `labels`, for targets with `masks` and `labels`.
    Predicted labels are class indices as in `panoptic`; target labels count things only, as a data set's objects do.
    semantic: adds the metrics of `SemanticSegmentation` from `semantic`, compared with the classes of the panoptic
    ground truth.
    """

    reads = ("panoptic",)
    main = "PQ"

    def __init__(self, classes: Classes, masks: bool = True, semantic: bool = True) -> None:
        self.uses_threshold = masks
        super().__init__(classes)
        self._things = np.array([n for n, c in enumerate(self.classes) if c.thing], int)
        fits = 1 <= len(self.classes) <= IGNORE  # uint8 label maps hold at most 255 classes
        self._semantic = SemanticSegmentation(self.classes) if semantic and fits else None

    def reset(self) -> None:
        super().reset()
        self._masks = CocoMasks(self.classes) if self.uses_threshold else None  # without the last results

    def prepare(self, head: Head, data: Dataset) -> None:
        """Raises ConfigError if the classes of objects are not the things."""
        objects, things = data.classes.get("detection", ()), [c.name for c in self.classes if c.thing]
        names = [c.name for c in objects]
        if self._masks is not None and "masks" in data.provides and names != things:
            raise ConfigError(
                f"masks is true, but the classes of the data set's masks are {', '.join(names)}, and its panoptic "
                f"things are {', '.join(things)}; both must be the same, in the same order. Fix: masks: false."
            )

    def record(self, prediction: Predictions, truth: Targets) -> PanopticRecord | None:
        """Raises DataError and PluginError for maps and masks that are not as described above."""
        if "panoptic" not in truth:
            return None
        key = image_id(truth)
        annotated = self._ids(key, truth["panoptic"], "ground truth", DataError)
        predicted = self._ids(key, prediction["panoptic"], "prediction", PluginError)
        if annotated.shape != predicted.shape:
            sizes = " and ".join(f"{ids.shape[0]} x {ids.shape[1]}" for ids in (predicted, annotated))
            raise DataError(f"image {key}: prediction and ground truth differ in height x width: {sizes}.")
        segments = match_segments(annotated, predicted, [*map(int, truth.get("panoptic_crowds", ()))])
        masks = semantic = None
        if self._masks is not None and "masks" in prediction and "masks" in truth and "labels" in truth:
            masks = self._masks.record(prediction, {**truth, "labels": self._class_indices(truth)})
        if self._semantic is not None and "semantic" in prediction:
            labels = np.where(annotated == VOID, IGNORE, annotated // LABEL_DIVISOR).astype(np.uint8)
            maps = {"semantic": torch.as_tensor(prediction["semantic"]).cpu()}
            semantic = self._semantic.record(maps, {"image_id": key, "semantic": torch.from_numpy(labels)})
        return PanopticRecord(segments, masks, semantic)

    def _ids(self, image_id: int | str, ids: Any, where: str, error: Callable[[str], DensevitError]) -> np.ndarray:
        """The panoptic ids (H, W), checked."""
        values: np.ndarray = torch.as_tensor(ids).cpu().numpy()
        if values.ndim != 2 or values.dtype.kind not in "iu":
            actual = f"{values.shape} {values.dtype}"
            raise error(f"image {image_id}: `panoptic` of its {where} is {actual}; (H, W) int32 is expected.")
        most = len(self.classes) * LABEL_DIVISOR - 1
        wrong = values[(values < VOID) | (values > most)]
        if wrong.size:
            raise error(
                f"image {image_id}: `panoptic` of its {where} is {wrong[0]} in {np.count_nonzero(wrong == wrong[0])} "
                f"pixels; 0 ... {most} is expected, class index * {LABEL_DIVISOR} + instance number for "
                f"{len(self.classes)} classes, or {VOID} for void."
            )
        return values

    def _class_indices(self, truth: Targets) -> np.ndarray:
        """The labels of objects, which are indices of things, as indices of all classes."""
        labels = torch.as_tensor(truth["labels"]).cpu().numpy()
        wrong = labels[(labels < 0) | (labels >= len(self._things))]
        if wrong.size:
            raise DataError(
                f"image {truth['image_id']}: label {wrong[0]}, but there are {len(self._things)} things, "
                f"0 ... {len(self._things) - 1}. Is this the data set that the model was trained on?"
            )
        return np.asarray(self._things[labels])

    def compute(self, records: Sequence[PanopticRecord]) -> dict[str, float]:
        """The metrics: fractions 0 ... 1, nan if undefined."""
        by_class = self._qualities(records)
        metrics = {
            f"{name}{suffix}": value
            for suffix, (_, group) in zip(("", "_th", "_st"), self._groups(), strict=True)
            for name, value in means([by_class[n] for n in group]).items()
        }
        metrics |= {f"PQ/{c.name}": quality.pq for c, quality in zip(self.classes, by_class, strict=True)}
        stuff = {f"mask_AP/{c.name}" for c in self.classes if not c.thing}
        for evaluator, parts in self._tasks(records):
            metrics |= {name: value for name, value in evaluator.compute(parts).items() if name not in stuff}
        return metrics

    def tables(self, records: Sequence[PanopticRecord], threshold: float = DEFAULT_THRESHOLD) -> dict[str, Table]:
        """One table of all tasks, with means and then one row per class; the confusion matrix of label maps."""
        by_class, tables = self._qualities(records), dict[str, Table]()
        header = ["class", "PQ", "SQ", "RQ", "TP", "FP", "FN"]
        rows: list[list[str | int | float]] = []
        for name, group in self._groups():
            chosen = [by_class[n] for n in group]
            counts = [sum(x.tp for x in chosen), sum(x.fp for x in chosen), sum(x.fn for x in chosen)]
            rows.append([name, *means(chosen).values(), *counts])
        rows += [
            [c.name, quality.pq, quality.sq, quality.rq, quality.tp, quality.fp, quality.fn]
            for c, quality in zip(self.classes, by_class, strict=True)
        ]
        for evaluator, parts in self._tasks(records):
            metric = "mask_AP" if evaluator is self._masks else "IoU"
            header.append(metric)
            metrics, task_tables = evaluator.compute(parts), evaluator.tables(parts, threshold)
            values = [metrics[f"{metric}/{c.name}"] for c in self.classes]
            group_means = [mean([values[n] for n in group]) for _, group in self._groups()[1:]]
            for row, value in zip(rows, [metrics[evaluator.main], *group_means, *values], strict=True):
                row.append(value)
            is_masks = evaluator is self._masks
            kept = self._mask_tables(task_tables) if is_masks else {"confusion": task_tables["confusion"]}
            tables = kept | tables
        return {"panoptic": [header, *rows], **tables}

    def _mask_tables(self, tables: dict[str, Table]) -> dict[str, Table]:
        """The metric tables of instance masks, without rows and columns of stuff classes."""
        header, *rows = tables["classes"]
        stuff = [n for n, c in enumerate(self.classes) if not c.thing]
        confusion = [[cell for n, cell in enumerate(row) if n - 1 not in stuff] for row in tables["confusion"]]
        return {
            "mask-classes": [header, *(row for n, row in enumerate(rows) if n not in stuff)],
            "mask-errors": tables["errors"],
            "mask-confusion": [row for n, row in enumerate(confusion) if n - 1 not in stuff],
        }

    def plots(self, records: Sequence[PanopticRecord]) -> dict[str, Plot]:
        """The plots of instance masks."""
        plots = [evaluator.plots(parts) for evaluator, parts in self._tasks(records) if evaluator is self._masks]
        return {f"mask-{name}": plot for part in plots for name, plot in part.items()}

    def image_scores(
        self, records: Sequence[PanopticRecord], threshold: float = DEFAULT_THRESHOLD
    ) -> list[float | None]:
        """The panoptic quality of each image, over segments of all classes."""
        scores = [image_quality(record.segments).pq for record in records]
        return [None if math.isnan(score) else score for score in scores]

    def entries(self, record: PanopticRecord) -> list[dict[str, Any]] | None:
        """The instance masks as entries of a COCO results file; None without masks."""
        return None if self._masks is None or record.masks is None else self._masks.entries(record.masks)

    def _qualities(self, records: Sequence[PanopticRecord]) -> list[Quality]:
        return qualities([record.segments for record in records], len(self.classes))

    @once_per_records
    def _tasks(self, records: Sequence[PanopticRecord]) -> list[tuple[Evaluator, list[Any]]]:
        """The evaluators of masks and label maps, with the records of the images that have them, if any."""
        masks = [record.masks for record in records if record.masks is not None]
        semantic = [record.semantic for record in records if record.semantic is not None]
        tasks: list[tuple[Evaluator | None, list[Any]]] = [(self._masks, masks), (self._semantic, semantic)]
        return [(evaluator, parts) for evaluator, parts in tasks if evaluator is not None and parts]

    def _groups(self) -> list[tuple[str, list[int]]]:
        things = self._things.tolist()
        every = list(range(len(self.classes)))
        return [("all", every), ("things", things), ("stuff", [n for n in every if n not in things])]
