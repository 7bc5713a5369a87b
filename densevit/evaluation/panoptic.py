"""Panoptic quality (Kirillov et al. 2019), with mask AP and mIoU of the same predictions in one table."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from copy import copy
from typing import Any

import numpy as np
import torch

from densevit.errors import ConfigError, DataError, DensevitError, PluginError
from densevit.evaluation.coco_masks import CocoMasks
from densevit.evaluation.miou import SemanticSegmentation
from densevit.evaluation.panoptic_quality import image_quality, mean, means, qualities
from densevit.evaluation.segment_matching import (
    match_segments,
)
from densevit.interfaces import (
    IGNORE,
    LABEL_DIVISOR,
    VOID,
    Class,
    Dataset,
    Evaluator,
    Head,
    Plot,
    Predictions,
    Table,
    Targets,
)

_Id = int | str


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

    def __init__(self, classes: Sequence[Class], masks: bool = True, semantic: bool = True) -> None:
        super().__init__(classes)
        self._things = np.array([n for n, c in enumerate(self.classes) if c.thing], int)
        self._task_evaluators: dict[str, Evaluator] = {"masks": CocoMasks(self.classes)} if masks else {}
        self.threshold = self._task_evaluators["masks"].threshold if masks else None
        if semantic and 1 <= len(self.classes) <= IGNORE:  # uint8 label maps hold at most 255 classes
            self._task_evaluators["semantic"] = SemanticSegmentation(self.classes)
        self.reset()

    def prepare(self, head: Head, data: Dataset) -> None:
        """Raises ConfigError if the classes of objects are not the things."""
        objects, things = data.classes.get("detection", ()), [c.name for c in self.classes if c.thing]
        names = [c.name for c in objects]
        if "masks" in self._task_evaluators and "masks" in data.provides and names != things:
            raise ConfigError(
                f"masks is true, but the classes of the data set's masks are {', '.join(names)}, and its panoptic "
                f"things are {', '.join(things)}; both must be the same, in the same order. Fix: masks: false."
            )

    def reset(self) -> None:
        """Removes all images."""
        self._segments: dict[_Id, np.ndarray] = {}
        self._confusions: dict[_Id, np.ndarray] = {}  # (M, 2): index into the confusion matrix, pixels
        self._tasks: set[str] = set()  # tasks with at least one image
        self._computed: dict[str, dict[str, float]] = {}  # metrics by task, until images are added
        for evaluator in self._task_evaluators.values():
            evaluator.reset()

    def update(self, predictions: Sequence[Predictions], truths: Sequence[Targets]) -> None:
        """Adds one prediction and one target per image, in original pixels; tensors of any device."""
        self._computed = {}
        for prediction, truth in zip(predictions, truths, strict=True):
            image_id = truth["image_id"] if isinstance(truth["image_id"], str) else int(truth["image_id"])
            if "panoptic" in truth and image_id not in self._segments:
                annotated = self._ids(image_id, truth["panoptic"], "ground truth", DataError)
                predicted = self._ids(image_id, prediction.get("panoptic"), "prediction", PluginError)
                if annotated.shape != predicted.shape:
                    sizes = " and ".join(f"{ids.shape[0]} x {ids.shape[1]}" for ids in (predicted, annotated))
                    raise DataError(f"image {image_id}: prediction and ground truth differ in height x width: {sizes}.")
                segments = match_segments(annotated, predicted, _listed(truth.get("panoptic_crowds", ())))
                for task, target in self._task_targets(prediction, truth, annotated).items():
                    target = {**target, "image_id": image_id}
                    if task == "semantic":
                        self._confusions[image_id] = self._confusion(prediction, target)
                    else:
                        self._task_evaluators[task].update([prediction], [target])
                    self._tasks.add(task)
                self._segments[image_id] = segments

    def _ids(self, image_id: _Id, ids: Any, where: str, error: Callable[[str], DensevitError]) -> np.ndarray:
        """The panoptic ids (H, W), checked."""
        if ids is None:
            raise error(f"image {image_id}: its {where} has no `panoptic`.")
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

    def _task_targets(self, prediction: Predictions, truth: Targets, annotated: np.ndarray) -> dict[str, Targets]:
        """The image's targets for instance masks and label maps, by task."""
        targets: dict[str, Targets] = {}
        evaluators = self._task_evaluators
        if "masks" in evaluators and "masks" in prediction and "masks" in truth and "labels" in truth:
            targets["masks"] = {**truth, "labels": self._class_indices(truth)}
        if "semantic" in evaluators and "semantic" in prediction:
            labels = np.where(annotated == VOID, IGNORE, annotated // LABEL_DIVISOR).astype(np.uint8)
            targets["semantic"] = {"semantic": torch.from_numpy(labels)}
        return targets

    def _confusion(self, prediction: Predictions, target: Targets) -> np.ndarray:
        """The nonzero counts of an image's confusion matrix."""
        evaluator = self._semantic()
        evaluator.reset()
        evaluator.update([{"semantic": torch.as_tensor(prediction["semantic"]).cpu()}], [target])
        counts = evaluator.counts.ravel()
        places = np.flatnonzero(counts)
        return np.stack([places, counts[places]], axis=1)

    def _semantic(self) -> SemanticSegmentation:
        evaluator = self._task_evaluators["semantic"]
        assert isinstance(evaluator, SemanticSegmentation)
        evaluator.partial = self.partial
        return evaluator

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

    def state(self) -> dict[str, Any]:
        """Segments and confusion matrices by image, and the state of instance masks."""
        masks = {task: evaluator.state() for task, evaluator in self._task_evaluators.items() if task != "semantic"}
        tasks = sorted(self._tasks)
        return {"segments": self._segments, "confusions": self._confusions, "tasks": tasks, "masks": masks}

    def merge(self, states: Sequence[dict[str, Any]]) -> None:
        """Replaces the state by the states of all processes; an image in several of them counts once."""
        self.reset()
        for state in states:
            self._segments = state["segments"] | self._segments
            self._confusions = state["confusions"] | self._confusions
            self._tasks.update(state["tasks"])
        for task, evaluator in self._task_evaluators.items():
            if task != "semantic":
                evaluator.merge([state["masks"][task] for state in states])

    def compute(self) -> dict[str, float]:
        """The metrics: fractions 0 ... 1, nan if undefined."""
        by_class = qualities(self._segments.values(), len(self.classes))
        metrics: dict[str, float] = {}
        for suffix, (_, group) in zip(("", "_th", "_st"), self._groups(), strict=True):
            metrics |= {f"{name}{suffix}": value for name, value in means([by_class[n] for n in group]).items()}
        metrics |= {f"PQ/{c.name}": quality.pq for c, quality in zip(self.classes, by_class, strict=True)}
        for task, task_metrics in self._task_metrics().items():
            stuff = {f"mask_AP/{c.name}" for c in self.classes if not c.thing} if task == "masks" else set()
            metrics |= {name: value for name, value in task_metrics.items() if name not in stuff}
        return metrics

    def contributions(self) -> Mapping[_Id, tuple[Any, ...]]:
        """The segments, the confusion counts and the mask records of each image; None for a task without the image."""
        masks = self._task_evaluators["masks"].contributions() if "masks" in self._tasks else {}
        return {n: (segments, self._confusions.get(n), masks.get(n)) for n, segments in self._segments.items()}

    def resampled(self, contributions: Iterable[tuple[Any, ...]]) -> "Panoptic":
        sample, columns = copy(self), [*zip(*contributions, strict=True)] or [()] * 3
        images: list[dict[_Id, Any]] = [{n: x for n, x in enumerate(part) if x is not None} for part in columns]
        sample._segments, sample._confusions, sample._computed = *images[:2], {}
        sample._task_evaluators = {
            task: evaluator.resampled(images[2].values()) if task == "masks" else copy(evaluator)
            for task, evaluator in self._task_evaluators.items()
        }
        return sample

    def tables(self) -> dict[str, Table]:
        """One table of all tasks, with means and then one row per class; the confusion matrix of label maps."""
        by_class, task_metrics = qualities(self._segments.values(), len(self.classes)), self._task_metrics()
        header = ["class", "PQ", "SQ", "RQ", "TP", "FP", "FN"]
        rows: list[list[str | int | float]] = []
        for name, group in self._groups():
            chosen = [by_class[n] for n in group]
            counts = [sum(getattr(quality, count) for quality in chosen) for count in ("tp", "fp", "fn")]
            rows.append([name, *means(chosen).values(), *counts])
        rows += [
            [c.name, quality.pq, quality.sq, quality.rq, quality.tp, quality.fp, quality.fn]
            for c, quality in zip(self.classes, by_class, strict=True)
        ]
        for task, main, class_metric in (("masks", "mask_AP", "mask_AP"), ("semantic", "mIoU", "IoU")):
            if task in task_metrics:
                header.append(class_metric)
                values = [task_metrics[task][f"{class_metric}/{c.name}"] for c in self.classes]
                group_means = [mean([values[n] for n in group]) for _, group in self._groups()[1:]]
                for row, value in zip(rows, [task_metrics[task][main], *group_means, *values], strict=True):
                    row.append(value)
        confusion = {"confusion": self._semantic().tables()["confusion"]} if "semantic" in self._tasks else {}
        return {"panoptic": [header, *rows], **confusion, **self._mask_tables()}

    def _mask_tables(self) -> dict[str, Table]:
        """The metric tables of instance masks, without rows and columns of stuff classes."""
        if "masks" not in self._tasks:
            return {}
        self._task_evaluators["masks"].threshold = self.threshold
        tables = self._task_evaluators["masks"].tables()
        header, *rows = tables["classes"]
        stuff = [n for n, c in enumerate(self.classes) if not c.thing]
        confusion = [[cell for n, cell in enumerate(row) if n - 1 not in stuff] for row in tables["confusion"]]
        return {
            "mask-classes": [header, *(row for n, row in enumerate(rows) if n not in stuff)],
            "mask-errors": tables["errors"],
            "mask-confusion": [row for n, row in enumerate(confusion) if n - 1 not in stuff],
        }

    def plots(self) -> dict[str, Plot]:
        """The plots of instance masks."""
        plots = self._task_evaluators["masks"].plots() if "masks" in self._tasks else {}
        return {f"mask-{name}": plot for name, plot in plots.items()}

    def image_scores(self) -> dict[_Id, float]:
        """The panoptic quality of each image, over segments of all classes."""
        scores = {image_id: image_quality(segments).pq for image_id, segments in self._segments.items()}
        return {image_id: score for image_id, score in scores.items() if not math.isnan(score)}

    def results(self) -> list[dict[str, Any]] | None:
        """The instance masks as entries of a COCO results file; None without masks."""
        return self._task_evaluators["masks"].results() if "masks" in self._tasks else None

    def _groups(self) -> list[tuple[str, list[int]]]:
        things = self._things.tolist()
        every = list(range(len(self.classes)))
        return [("all", every), ("things", things), ("stuff", [n for n in every if n not in things])]

    def _task_metrics(self) -> dict[str, dict[str, float]]:
        for task in self._tasks - self._computed.keys():
            if task == "semantic":
                self._sum_confusions()
            self._computed[task] = self._task_evaluators[task].compute()
        return {task: self._computed[task] for task in self._task_evaluators if task in self._tasks}

    def _sum_confusions(self) -> None:
        """Passes the summed counts to the evaluator of label maps."""
        evaluator = self._semantic()
        evaluator.reset()
        counts = np.zeros(evaluator.side**2, np.int64)
        for image_counts in self._confusions.values():
            counts[image_counts[:, 0]] += image_counts[:, 1]
        sums = {"ids": list(self._confusions), "counts": counts.reshape(evaluator.side, -1)}
        evaluator.merge([evaluator.state() | sums])


def _listed(ids: Any) -> list[int]:
    return [int(segment) for segment in ids]
