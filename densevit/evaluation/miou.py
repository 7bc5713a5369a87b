"""Mean intersection over union of label maps, from a confusion matrix over the data set."""

from collections.abc import Iterable, Sequence
from copy import copy
from typing import Any

import numpy as np
import torch
from torch import Tensor

from densevit.errors import ConfigError, DataError
from densevit.evaluation.confusion_counts import boundary as boundary_of
from densevit.evaluation.confusion_counts import count_pairs, invalid_labels
from densevit.evaluation.mask_boundary import boundary_fraction, boundary_width
from densevit.interfaces import IGNORE, Class, Evaluator, Predictions, Table, Targets

_Id = int | str


class SemanticSegmentation(Evaluator):
    """Intersection over union and accuracy of classes, from exact pixel counts over all images.

    With n_ij the pixels of class i in the ground truth predicted as j (Long et al. 2015, section 5), without pixels of
    255 in the ground truth:

        IoU/<class>  n_ii / (sum_j n_ij + sum_j n_ji - n_ii); nan for a class in neither ground truth nor predictions
        Acc/<class>  n_ii / sum_j n_ij, the recall; nan for a class without ground truth
        mIoU, mAcc   the mean over classes, without nan
        aAcc         the fraction of correct pixels
        fwIoU        the mean of IoU, weighted by the class frequencies in the ground truth

    boundary: adds BIoU/<class> and their mean mBIoU, the boundary IoU of Cheng et al. 2021: IoU of the pixels near the
    regions' boundaries. Near is a distance of `boundary` times the image diagonal, rounded, at least 1 pixel; true:
    the paper's 0.02. Intersections and unions are summed over all images, as for IoU. Pixels of 255 in the ground truth
    count as outside the image, in ground truth and prediction.

    On a GPU the counts stay there, and `compute` reports invalid labels.
    """

    reads = ("semantic",)
    main = "mIoU"
    by_image = "_images"

    def __init__(self, classes: Sequence[Class], boundary: bool | float = False) -> None:
        super().__init__(classes)
        if not 1 <= len(self.classes) <= IGNORE:
            raise ConfigError(f"Segmentation supports 1 to {IGNORE} classes; found {len(self.classes)}.")
        self.boundary = boundary_fraction(boundary)
        self.reset()

    def reset(self) -> None:
        """Removes all images."""
        self._ids: dict[_Id, None] = {}  # in insertion order
        self._scores: list[Tensor] = []  # (), of each image
        self._images: dict[_Id, list[Tensor]] = {}  # sparse counts and bands, if `keeps_images`
        self._counts: dict[torch.device, Tensor] = {}  # (side, side) each
        self._bands: dict[torch.device, Tensor] = {}  # counts near boundaries; the last index is all other pixels
        self._faults: dict[
            torch.device, Tensor
        ] = {}  # (5,): index of the first image with invalid labels; its `invalid_labels`

    def update(self, predictions: Sequence[Predictions], truths: Sequence[Targets]) -> None:
        """Adds one prediction and one target per image, in original pixels; tensors of any device.

        predictions: semantic (H, W) uint8. truths: image_id, semantic (H, W) uint8, 255 = ignore. Ignores images
        without `semantic` in their target, and images added before. Raises DataError for different sizes of prediction
        and ground truth, and for invalid labels.
        """
        for prediction, truth in zip(predictions, truths, strict=True):
            image_id = truth["image_id"] if isinstance(truth["image_id"], str) else int(truth["image_id"])
            if "semantic" in truth and image_id not in self._ids:
                self._add(image_id, *_maps(image_id, prediction, truth))

    def _add(self, image_id: _Id, truth: Tensor, prediction: Tensor) -> None:
        classes = self.side
        if self.partial:
            prediction = torch.where(prediction == IGNORE, classes - 1, prediction).to(torch.uint8)
        counts = count_pairs(truth, prediction, classes)
        counts[IGNORE:] = 0  # with 255 classes and no class, ignored pixels are in range
        if truth.device.type == "cpu":
            self._check(image_id, truth, prediction, counts)
        else:
            self._record_faults(image_id, truth, prediction, counts)
        self._ids[image_id] = None
        self._scores.append(_image_score(counts))
        _sum_up(self._counts, counts)
        kept = [counts]
        if self.boundary:
            width = boundary_width(self.boundary, (truth.shape[0], truth.shape[1]))
            masked = torch.where(truth == IGNORE, truth, prediction)
            edges = [boundary_of(labels, width, self._band_side - 1) for labels in (truth, masked)]
            kept.append(count_pairs(edges[0], edges[1], self._band_side))
            _sum_up(self._bands, kept[1])
        if self.keeps_images:
            self._images[image_id] = [x.cpu().to_sparse() for x in kept]

    def _check(self, image_id: _Id, truth: Tensor, prediction: Tensor, counts: Tensor) -> None:
        """Raises DataError if `counts` lacks a labelled pixel, because its label or its prediction is no class."""
        if int(counts.sum()) != np.count_nonzero(truth.numpy() != IGNORE):
            raise DataError(self._fault(image_id, invalid_labels(truth, prediction, self.side).tolist()))

    def _record_faults(self, image_id: _Id, truth: Tensor, prediction: Tensor, counts: Tensor) -> None:
        """Records the first image with invalid labels, on the device."""
        invalid = invalid_labels(truth, prediction, self.side)
        invalid = torch.cat([invalid.new_full((1,), len(self._ids)), invalid])
        first = self._faults.get(truth.device, invalid)
        self._faults[truth.device] = torch.where(first[1:].any(), first, invalid)

    def state(self) -> dict[str, Any]:
        """The counts as arrays, and the image ids."""
        return {
            "ids": list(self._ids),
            "scores": self._image_scores(),
            "counts": self.counts,
            "bands": _total(self._bands, self._band_side),
            "fault": self._first_fault(),
            "images": self._images,
        }

    def merge(self, states: Sequence[dict[str, Any]]) -> None:
        """Replaces the state by the states of all processes.

        Raises DataError if two processes added the same image, which would be counted twice.
        """
        self.reset()
        for state in states:
            if state["fault"]:
                raise DataError(state["fault"])
            twice = [image_id for image_id in state["ids"] if image_id in self._ids]
            if twice:
                raise DataError(
                    f"Image {twice[0]!r} was evaluated by two processes; each image belongs to a single process."
                )
            self._ids.update(dict.fromkeys(state["ids"]))
            self._images |= state["images"]
            self._scores.extend(torch.as_tensor(state["scores"]).unbind())
            _sum_up(self._counts, torch.from_numpy(state["counts"]))
            _sum_up(self._bands, torch.from_numpy(state["bands"]))

    def compute(self) -> dict[str, float]:
        """The metrics: fractions 0 ... 1, nan if undefined."""
        fault = self._first_fault()
        if fault:
            raise DataError(fault)
        counts = self.counts
        truth = counts.sum(1)
        classes = len(self.classes)
        iou, accuracy = _iou(counts)[:classes], _ratio(counts.diagonal(), truth)[:classes]
        metrics = {
            "mIoU": _mean(iou),
            "mAcc": _mean(accuracy),
            "aAcc": float(_ratio(counts.trace(), truth.sum())),
            "fwIoU": float(_ratio(np.nansum(iou * truth[:classes]), truth.sum())),
        }
        by_class = {"IoU": iou, "Acc": accuracy}
        if self.boundary:
            by_class["BIoU"] = _iou(_total(self._bands, self._band_side))[:classes]
            metrics["mBIoU"] = _mean(by_class["BIoU"])
        for name, values in by_class.items():
            metrics |= {f"{name}/{c.name}": float(value) for c, value in zip(self.classes, values, strict=True)}
        return metrics

    def resampled(self, contributions: Iterable[list[Tensor]]) -> "SemanticSegmentation":
        sample = copy(self)
        sums = [torch.zeros(side, side, dtype=torch.int64) for side in (self.side, self._band_side)]
        for image in contributions:
            for total, counts in zip(sums, image, strict=False):
                total += counts
        sample._counts, sample._bands = ({total.device: total} for total in sums)
        return sample

    @property
    def counts(self) -> np.ndarray:
        """The confusion matrix, (K, K) int64: pixels by class in ground truth (rows) and prediction (columns).

        (K + 1, K + 1) for `partial` evaluation, no class last.
        """
        return _total(self._counts, self.side)

    @property
    def side(self) -> int:
        """The side of the confusion matrix."""
        return len(self.classes) + self.partial

    @property
    def _band_side(self) -> int:
        """The side of the confusion matrix near boundaries. Its last index is all other pixels and, with 255 classes,
        no class."""
        return min(self.side, IGNORE) + 1

    def tables(self) -> dict[str, Table]:
        """Pixels, IoU, recall and precision per class; the confusion matrix."""
        names, counts = [*(c.name for c in self.classes), *(["other classes"] if self.partial else [])], self.counts
        truth, predicted, hits = counts.sum(1), counts.sum(0), counts.diagonal()
        columns = [truth, _iou(counts), _ratio(hits, truth), _ratio(hits, predicted)]
        classes = [list(row) for row in zip(names, *(column.tolist() for column in columns), strict=True)]
        classes = classes[: len(self.classes)]
        rows = [[name, *row] for name, row in zip(names, counts.tolist(), strict=True)]
        return {
            "classes": [["class", "pixels", "IoU", "recall", "precision"], *classes],
            "confusion": [["truth \\ prediction", *names], *rows],
        }

    def image_scores(self) -> dict[_Id, float]:
        """The mean IoU of each image, over the classes in its ground truth or prediction."""
        scores = zip(self._ids, self._image_scores().tolist(), strict=True)
        return {image_id: score for image_id, score in scores if score == score}

    def _image_scores(self) -> np.ndarray:
        if not self._scores:
            return np.zeros(0, np.float32)
        device = self._scores[-1].device
        return np.array(torch.stack([score.to(device) for score in self._scores]).cpu().numpy())

    def _first_fault(self) -> str | None:
        """The error of the first image with invalid labels. Synchronises with the GPU, as reading the counts does."""
        faults = sorted(numbers for numbers in (fault.tolist() for fault in self._faults.values()) if any(numbers[1:]))
        return self._fault(list(self._ids)[faults[0][0]], faults[0][1:]) if faults else None

    def _fault(self, image_id: _Id, invalid: Sequence[int]) -> str:
        value, pixels = invalid[:2] if invalid[1] else invalid[2:]
        where, also = ("ground truth", f", or {IGNORE} for ignore") if invalid[1] else ("prediction", "")
        expected = f"0 ... {len(self.classes) - 1} is expected, for {len(self.classes)} classes{also}"
        return f"Image {image_id!r}: `semantic` of its {where} is {value} in {pixels} pixels; {expected}."


def _maps(image_id: _Id, outputs: Predictions, truth: Targets) -> tuple[Tensor, Tensor]:
    """The label maps of ground truth and prediction, on the prediction's device."""
    if "semantic" not in outputs:
        raise DataError(
            f"Image {image_id!r}: its prediction has no `semantic`, only {', '.join(outputs) or 'nothing'}."
        )
    prediction = torch.as_tensor(outputs["semantic"])
    truth_map = torch.as_tensor(truth["semantic"]).to(prediction.device, non_blocking=True)
    for where, labels in (("ground truth", truth_map), ("prediction", prediction)):
        if labels.dtype != torch.uint8 or labels.ndim != 2:
            actual = f"{tuple(labels.shape)} {str(labels.dtype).removeprefix('torch.')}"
            fix = "" if where == "ground truth" else " Fix: in predict and read_maps, return labels.to(torch.uint8)."
            raise DataError(
                f"Image {image_id!r}: `semantic` of its {where} is {actual}; (H, W) uint8 is expected.{fix}"
            )
    if truth_map.shape != prediction.shape:
        sizes = " and ".join(f"{labels.shape[0]} x {labels.shape[1]}" for labels in (prediction, truth_map))
        raise DataError(f"Image {image_id!r}: prediction and ground truth differ in height x width: {sizes}.")
    return truth_map, prediction


def _image_score(counts: Tensor) -> Tensor:
    """The mean IoU of one image, on its device; nan without labelled pixels."""
    hits = counts.diagonal()
    union = counts.sum(0) + counts.sum(1) - hits
    present = union > 0
    return (hits / union.clamp(min=1)).sum() / present.sum()


def _sum_up(sums: dict[torch.device, Tensor], counts: Tensor) -> None:
    sums[counts.device] = sums[counts.device] + counts if counts.device in sums else counts


def _total(sums: dict[torch.device, Tensor], size: int) -> np.ndarray:
    return sum((counts.cpu().numpy() for counts in sums.values()), np.zeros((size, size), np.int64))


def _iou(counts: np.ndarray) -> np.ndarray:
    hits = counts.diagonal()
    return _ratio(hits, counts.sum(0) + counts.sum(1) - hits)


def _ratio(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """nan where the denominator is 0."""
    with np.errstate(invalid="ignore"):
        return np.divide(numerator, denominator)


def _mean(values: np.ndarray) -> float:
    """The mean of valid values; nan if there are none."""
    valid = values[~np.isnan(values)]
    return float(valid.mean()) if valid.size else float("nan")
