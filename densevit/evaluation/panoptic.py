"""Panoptic quality (Kirillov et al. 2019), with mask AP and mIoU of the same predictions in one table."""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

from densevit.errors import ConfigError, DataError, DensevitError, PluginError
from densevit.evaluation.coco_masks import CocoMasks
from densevit.evaluation.miou import SemanticSegmentation
from densevit.evaluation.segment_matching import (
    FALSE_NEGATIVE,
    FALSE_POSITIVE,
    SEGMENT,
    TRUE_POSITIVE,
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

    predictions: panoptic (H, W) integers, class index * 1000 + number of the instance, -1 = void. truths: image_id,
    panoptic in the same form, and panoptic_crowds, the ids that are crowds (none by default). An image without
    `panoptic` in its target is unlabelled and ignored, as is one already added. Matching: see `match_segments`;
    panopticapi uses only the last of several crowds of one class, this evaluator all of them.

    With the sum of the IoUs of all matched pairs of a class, and TP, FP, FN over all images:

        SQ           IoU / TP; 0 without a match
        RQ           TP / (TP + FP / 2 + FN / 2)
        PQ           SQ * RQ
        PQ, SQ, RQ   the means over classes that have segments in the ground truth or in predictions
        PQ_th, ...   the means over things; PQ_st, ...: over stuff
        PQ/<class>   of each class; nan without segments

    The same predictions are evaluated for two more tasks, if they have the keys, in one table:

    masks: adds the metrics of `CocoMasks` from `masks`, `scores` and `labels`, if the target has `masks` and `labels`.
    Labels of predictions are class indices as in `panoptic`; labels of targets count things only, as a data set's
    objects do.
    semantic: adds the metrics of `SemanticSegmentation` from `semantic`, compared with the classes of the panoptic
    ground truth.
    """

    reads = ("panoptic",)
    main = "PQ"

    def __init__(self, classes: Sequence[Class], masks: bool = True, semantic: bool = True) -> None:
        super().__init__(classes)
        self._things = np.array([n for n, c in enumerate(self.classes) if c.thing], int)
        self._others: dict[str, Evaluator] = {"masks": CocoMasks(self.classes)} if masks else {}
        self.threshold = self._others["masks"].threshold if masks else None
        if semantic and 1 <= len(self.classes) <= IGNORE:  # uint8 label maps hold at most 255 classes
            self._others["semantic"] = SemanticSegmentation(self.classes)
        self.reset()

    def prepare(self, head: Head, data: Dataset) -> None:
        """Raises ConfigError if the objects' classes are not the things."""
        objects, things = data.classes.get("detection", ()), [c.name for c in self.classes if c.thing]
        names = [c.name for c in objects]
        if "masks" in self._others and "masks" in data.provides and names != things:
            raise ConfigError(
                f"masks is true, but the classes of the data set's masks are {', '.join(names)}, and the things of its "
                f"panoptic classes are {', '.join(things)}; the same are expected, in one order. Fix: masks: false."
            )

    def reset(self) -> None:
        """Removes all images."""
        self._segments: dict[_Id, np.ndarray] = {}
        self._confusions: dict[_Id, np.ndarray] = {}  # (M, 2): places in the confusion matrix, and their pixels
        self._tasks: set[str] = set()  # other tasks that some image has
        self._computed: dict[str, dict[str, float]] = {}  # their metrics, until images are added
        for evaluator in self._others.values():
            evaluator.reset()

    def update(self, predictions: Sequence[Predictions], truths: Sequence[Targets]) -> None:
        """Adds one prediction and one target per image, in original pixels; tensors of any device."""
        self._computed = {}
        for found, truth in zip(predictions, truths, strict=True):
            image_id = truth["image_id"] if isinstance(truth["image_id"], str) else int(truth["image_id"])
            if "panoptic" in truth and image_id not in self._segments:
                known = self._ids(image_id, truth["panoptic"], "ground truth", DataError)
                predicted = self._ids(image_id, found.get("panoptic"), "prediction", PluginError)
                if known.shape != predicted.shape:
                    sizes = " and ".join(f"{ids.shape[0]} x {ids.shape[1]}" for ids in (predicted, known))
                    raise DataError(f"image {image_id}: prediction and ground truth differ in height x width: {sizes}.")
                segments = match_segments(known, predicted, _listed(truth.get("panoptic_crowds", ())))
                for task, target in self._targets_of_others(found, truth, known).items():
                    target = {**target, "image_id": image_id}
                    if task == "semantic":
                        self._confusions[image_id] = self._confusion(found, target)
                    else:
                        self._others[task].update([found], [target])
                    self._tasks.add(task)
                self._segments[image_id] = segments

    def _ids(self, image_id: _Id, ids: Any, where: str, error: Callable[[str], DensevitError]) -> np.ndarray:
        """The panoptic ids (H, W), checked."""
        if ids is None:
            raise error(f"image {image_id}: its {where} has no `panoptic`.")
        values: np.ndarray = torch.as_tensor(ids).cpu().numpy()
        if values.ndim != 2 or values.dtype.kind not in "iu":
            kind = f"{values.shape} {values.dtype}"
            raise error(f"image {image_id}: `panoptic` of its {where} is {kind}; (H, W) int32 is expected.")
        most = len(self.classes) * LABEL_DIVISOR - 1
        wrong = values[(values < VOID) | (values > most)]
        if wrong.size:
            raise error(
                f"image {image_id}: `panoptic` of its {where} is {wrong[0]} in {np.count_nonzero(wrong == wrong[0])} "
                f"pixels; 0 ... {most} is expected, class index * {LABEL_DIVISOR} + number of the instance for "
                f"{len(self.classes)} classes, or {VOID} for void."
            )
        return values

    def _targets_of_others(self, found: Predictions, truth: Targets, known: np.ndarray) -> dict[str, Targets]:
        """The targets of the other tasks that this image has."""
        targets: dict[str, Targets] = {}
        if "masks" in self._others and "masks" in found and "masks" in truth and "labels" in truth:
            targets["masks"] = {**truth, "labels": self._class_indices(truth)}
        if "semantic" in self._others and "semantic" in found:
            labels = np.where(known == VOID, IGNORE, known // LABEL_DIVISOR).astype(np.uint8)
            targets["semantic"] = {"semantic": torch.from_numpy(labels)}
        return targets

    def _confusion(self, found: Predictions, target: Targets) -> np.ndarray:
        """The confusion matrix of one image, without zeros."""
        evaluator = self._semantic()
        evaluator.reset()
        evaluator.update([{"semantic": torch.as_tensor(found["semantic"]).cpu()}], [target])
        counts = evaluator.counts.ravel()
        places = np.flatnonzero(counts)
        return np.stack([places, counts[places]], axis=1)

    def _semantic(self) -> SemanticSegmentation:
        evaluator = self._others["semantic"]
        assert isinstance(evaluator, SemanticSegmentation)
        evaluator.partial = self.partial
        return evaluator

    def _class_indices(self, truth: Targets) -> np.ndarray:
        """The labels of objects, which count things, as indices of all classes."""
        labels = torch.as_tensor(truth["labels"]).cpu().numpy()
        wrong = labels[(labels < 0) | (labels >= len(self._things))]
        if wrong.size:
            raise DataError(
                f"image {truth['image_id']}: label {wrong[0]}, but there are {len(self._things)} things, "
                f"0 ... {len(self._things) - 1}. Is this the data set that the model was trained on?"
            )
        return np.asarray(self._things[labels])

    def state(self) -> dict[str, Any]:
        """All segments that count and confusion matrices, by image, and the state of instance masks."""
        masks = {task: evaluator.state() for task, evaluator in self._others.items() if task != "semantic"}
        tasks = sorted(self._tasks)
        return {"segments": self._segments, "confusions": self._confusions, "tasks": tasks, "others": masks}

    def merge(self, states: Sequence[dict[str, Any]]) -> None:
        """Replaces the state by those of all processes; an image from several processes counts once."""
        self.reset()
        for state in states:
            self._segments = state["segments"] | self._segments
            self._confusions = state["confusions"] | self._confusions
            self._tasks.update(state["tasks"])
        for task, evaluator in self._others.items():
            if task != "semantic":
                evaluator.merge([state["others"][task] for state in states])

    def compute(self) -> dict[str, float]:
        """The metrics of all images: fractions 0 ... 1, nan if undefined."""
        qualities = self._qualities()
        metrics: dict[str, float] = {}
        for suffix, (_, group) in zip(("", "_th", "_st"), self._groups(), strict=True):
            metrics |= {f"{name}{suffix}": value for name, value in _means([qualities[n] for n in group]).items()}
        metrics |= {f"PQ/{c.name}": one.pq for c, one in zip(self.classes, qualities, strict=True)}
        for task, others in self._metrics_of_others().items():
            stuff = {f"mask_AP/{c.name}" for c in self.classes if not c.thing} if task == "masks" else set()
            metrics |= {name: value for name, value in others.items() if name not in stuff}
        return metrics

    def tables(self) -> dict[str, Table]:
        """One table of all tasks with one row per class, means first, and the confusion matrix of label maps."""
        qualities, others = self._qualities(), self._metrics_of_others()
        header = ["class", "PQ", "SQ", "RQ", "TP", "FP", "FN"]
        rows: list[list[str | int | float]] = []
        for name, group in self._groups():
            chosen = [qualities[n] for n in group]
            counts = [sum(getattr(one, count) for one in chosen) for count in ("tp", "fp", "fn")]
            rows.append([name, *_means(chosen).values(), *counts])
        rows += [
            [c.name, one.pq, one.sq, one.rq, one.tp, one.fp, one.fn]
            for c, one in zip(self.classes, qualities, strict=True)
        ]
        for task, mean, of_class in (("masks", "mask_AP", "mask_AP"), ("semantic", "mIoU", "IoU")):
            if task in others:
                header.append(of_class)
                by_class = [others[task][f"{of_class}/{c.name}"] for c in self.classes]
                means = [others[task][mean], *(_mean([by_class[n] for n in group]) for _, group in self._groups()[1:])]
                for row, value in zip(rows, [*means, *by_class], strict=True):
                    row.append(value)
        confusion = {"confusion": self._semantic().tables()["confusion"]} if "semantic" in self._tasks else {}
        return {"panoptic": [header, *rows], **confusion, **self._mask_tables()}

    def _mask_tables(self) -> dict[str, Table]:
        """The tables of instance masks, without stuff, which has none."""
        if "masks" not in self._tasks:
            return {}
        self._others["masks"].threshold = self.threshold
        tables = self._others["masks"].tables()
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
        plots = self._others["masks"].plots() if "masks" in self._tasks else {}
        return {f"mask-{name}": plot for name, plot in plots.items()}

    def image_scores(self) -> dict[_Id, float]:
        """The panoptic quality of each image over all its segments, whatever their class."""
        scores = {}
        for image_id, segments in self._segments.items():
            counts = np.bincount(segments["outcome"], minlength=3)[_COUNTED].tolist()
            quality = _Quality(math.fsum(segments["iou"]), *counts).pq
            if not math.isnan(quality):
                scores[image_id] = quality
        return scores

    def results(self) -> list[dict[str, Any]] | None:
        """The instance masks as entries of a COCO results file, if there are any."""
        return self._others["masks"].results() if "masks" in self._tasks else None

    def _groups(self) -> list[tuple[str, list[int]]]:
        things = self._things.tolist()
        every = list(range(len(self.classes)))
        return [("all", every), ("things", things), ("stuff", [n for n in every if n not in things])]

    def _metrics_of_others(self) -> dict[str, dict[str, float]]:
        for task in self._tasks - self._computed.keys():
            if task == "semantic":
                self._sum_confusions()
            self._computed[task] = self._others[task].compute()
        return {task: self._computed[task] for task in self._others if task in self._tasks}

    def _sum_confusions(self) -> None:
        """Passes the counts of all images to the evaluator of label maps."""
        evaluator = self._semantic()
        evaluator.reset()
        counts = np.zeros(evaluator.side**2, np.int64)
        for one in self._confusions.values():
            counts[one[:, 0]] += one[:, 1]
        sums = {"ids": list(self._confusions), "counts": counts.reshape(evaluator.side, -1)}
        evaluator.merge([evaluator.state() | sums])

    def _qualities(self) -> list["_Quality"]:
        """The quality of each class. Exactly rounded sums do not depend on the order of images."""
        segments = np.concatenate([np.zeros(0, SEGMENT), *self._segments.values()])
        classes = len(self.classes)
        counts = np.bincount(3 * segments["label"] + segments["outcome"], minlength=3 * classes).reshape(classes, 3)
        order = np.argsort(segments["label"], kind="stable")
        ious = np.split(segments["iou"][order], np.cumsum(counts.sum(1))[:-1])
        return [_Quality(math.fsum(one), *row) for one, row in zip(ious, counts[:, _COUNTED].tolist(), strict=True)]


_COUNTED = [TRUE_POSITIVE, FALSE_POSITIVE, FALSE_NEGATIVE]


class _Quality(NamedTuple):
    """One class; iou: the sum over matched pairs."""

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


def _means(qualities: Sequence[_Quality]) -> dict[str, float]:
    return {name: _mean([getattr(one, name.lower()) for one in qualities]) for name in ("PQ", "SQ", "RQ")}


def _mean(values: Sequence[float]) -> float:
    """The mean of valid values; nan if there are none."""
    known = [value for value in values if not math.isnan(value)]
    return math.fsum(known) / len(known) if known else math.nan


def _listed(ids: Any) -> list[int]:
    return [int(one) for one in ids]
