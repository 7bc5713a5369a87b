"""Mean intersection over union of label maps, from one confusion matrix of the whole data set."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from densevit.errors import ConfigError, DataError
from densevit.evaluation.confusion import boundary as boundary_of
from densevit.evaluation.confusion import count_pairs, faults
from densevit.interfaces import IGNORE, Class, Evaluator, Predictions, Table, Targets

_Id = int | str


class SemanticSegmentation(Evaluator):
    """Intersection over union and accuracy of classes, from exact counts of the pixels of all images.

    With n_ij pixels of class i in the truth that are predicted to be j (Long et al. 2015, section 5), pixels that are
    255 in the truth left out:

        IoU/<class>  n_ii / (sum_j n_ij + sum_j n_ji - n_ii); nan where the class is in no truth and no prediction
        Acc/<class>  n_ii / sum_j n_ij, the recall; nan where the class is in no truth
        mIoU, mAcc   the mean over the classes for which it is not nan
        aAcc         the share of all pixels that is right
        fwIoU        the mean of IoU, each class weighted by its pixels in the truth

    boundary: adds BIoU/<class> and their mean mBIoU, the boundary IoU of Cheng et al. 2021: IoU of what lies within a
    distance of the regions' own outlines, that distance being `boundary` times the picture's diagonal, rounded, at
    least 1 pixel; true is their 0.02. Intersections and unions are summed over all images, as for IoU, and pixels that
    are 255 in the truth count as beyond the picture, in truth and prediction.

    On a GPU the counts stay there, and what is wrong with a map's values is told by `compute`.
    """

    main = "mIoU"

    def __init__(self, classes: Sequence[Class], boundary: bool | float = False) -> None:
        super().__init__(classes)
        if not 1 <= len(self.classes) <= IGNORE:
            raise ConfigError(f"Segmentation takes 1 to {IGNORE} classes; found {len(self.classes)}.")
        self.boundary = (0.02 if boundary else 0.0) if isinstance(boundary, bool) else boundary
        if not isinstance(boundary, bool) and not 0 < boundary < 1:
            raise ConfigError(f"boundary is {boundary}; a part of the diagonal is expected, above 0 and below 1.")
        self.reset()

    def reset(self) -> None:
        """Forgets all images."""
        self._ids: dict[_Id, None] = {}  # in the order in which they came
        self._counts: dict[torch.device, Tensor] = {}  # (K, K) each
        self._bands: dict[torch.device, Tensor] = {}  # (K + 1, K + 1): the same near outlines; K is elsewhere
        self._faults: dict[torch.device, Tensor] = {}  # (5,): the first faulty image's number among the ids; its faults

    def update(self, predictions: Sequence[Predictions], truths: Sequence[Targets]) -> None:
        """Takes one prediction and one truth an image, in its original pixels; tensors of any device.

        predictions: semantic (H, W) uint8. truths: image_id, semantic (H, W) uint8, 255 = ignore. An image without
        `semantic` in its truth is not labelled and does not count; one seen before neither. Raises DataError where a
        prediction's size is not its truth's, or a value is no class.
        """
        for found, truth in zip(predictions, truths, strict=True):
            image_id = truth["image_id"] if isinstance(truth["image_id"], str) else int(truth["image_id"])
            if "semantic" in truth and image_id not in self._ids:
                self._add(image_id, *_maps(image_id, found, truth))

    def _add(self, image_id: _Id, truth: Tensor, prediction: Tensor) -> None:
        classes = len(self.classes)
        counts = count_pairs(truth, prediction, classes)
        if truth.device.type == "cpu":
            self._check(image_id, truth, prediction, counts)
        else:
            self._record_faults(image_id, truth, prediction, counts)
        self._ids[image_id] = None
        _sum_up(self._counts, counts)
        if self.boundary:
            width = max(1, round(self.boundary * float(np.hypot(*truth.shape))))
            seen = torch.where(truth == IGNORE, truth, prediction)
            outlines = [boundary_of(labels, width, elsewhere=classes) for labels in (truth, seen)]
            _sum_up(self._bands, count_pairs(outlines[0], outlines[1], classes + 1))

    def _check(self, image_id: _Id, truth: Tensor, prediction: Tensor, counts: Tensor) -> None:
        """Raises DataError where a labelled pixel was not counted."""
        if int(counts.sum()) != np.count_nonzero(truth.numpy() != IGNORE):
            raise DataError(self._fault(image_id, faults(truth, prediction, len(self.classes)).tolist()))

    def _record_faults(self, image_id: _Id, truth: Tensor, prediction: Tensor, counts: Tensor) -> None:
        """Keeps the first faulty image on the device, to be asked for later."""
        found = faults(truth, prediction, len(self.classes))
        found = torch.cat([found.new_full((1,), len(self._ids)), found])
        first = self._faults.get(truth.device, found)
        self._faults[truth.device] = torch.where(first[1:].any(), first, found)

    def state(self) -> dict[str, Any]:
        """All that was counted, as arrays, and the images' ids."""
        return {
            "ids": list(self._ids),
            "counts": self.counts,
            "bands": _total(self._bands, len(self.classes) + 1),
            "fault": self._first_fault(),
        }

    def merge(self, states: Sequence[dict[str, Any]]) -> None:
        """Takes the states of all processes in place of what was seen.

        Raises DataError where two saw the same image, which a sum of counts would count twice.
        """
        self.reset()
        for state in states:
            if state["fault"]:
                raise DataError(state["fault"])
            twice = [image_id for image_id in state["ids"] if image_id in self._ids]
            if twice:
                raise DataError(f"Image {twice[0]!r} was evaluated by two processes; each image belongs to one.")
            self._ids.update(dict.fromkeys(state["ids"]))
            _sum_up(self._counts, torch.from_numpy(state["counts"]))
            _sum_up(self._bands, torch.from_numpy(state["bands"]))

    def compute(self) -> dict[str, float]:
        """The metrics of all images: fractions 0 ... 1, nan where there is nothing to measure."""
        fault = self._first_fault()
        if fault:
            raise DataError(fault)
        counts = self.counts
        truth = counts.sum(1)
        iou, accuracy = _iou(counts), _ratio(counts.diagonal(), truth)
        metrics = {
            "mIoU": _mean(iou),
            "mAcc": _mean(accuracy),
            "aAcc": float(_ratio(counts.trace(), truth.sum())),
            "fwIoU": float(_ratio(np.nansum(iou * truth), truth.sum())),
        }
        by_class = {"IoU": iou, "Acc": accuracy}
        if self.boundary:
            by_class["BIoU"] = _iou(_total(self._bands, len(self.classes) + 1))[:-1]
            metrics["mBIoU"] = _mean(by_class["BIoU"])
        for name, values in by_class.items():
            metrics |= {f"{name}/{c.name}": float(value) for c, value in zip(self.classes, values, strict=True)}
        return metrics

    @property
    def counts(self) -> np.ndarray:
        """The confusion matrix, (K, K) int64: pixels by class of the truth (rows) and of the prediction (columns)."""
        return _total(self._counts, len(self.classes))

    def tables(self) -> dict[str, Table]:
        """The confusion matrix with the classes' names."""
        names = [c.name for c in self.classes]
        rows = [[name, *row] for name, row in zip(names, self.counts.tolist(), strict=True)]
        return {"confusion": [["truth \\ prediction", *names], *rows]}

    def _first_fault(self) -> str | None:
        """What is wrong with the first faulty image of a GPU; the only place, with the counts, that waits for it."""
        found = sorted(numbers for numbers in (faults.tolist() for faults in self._faults.values()) if any(numbers[1:]))
        return self._fault(list(self._ids)[found[0][0]], found[0][1:]) if found else None

    def _fault(self, image_id: _Id, found: Sequence[int]) -> str:
        value, pixels = found[:2] if found[1] else found[2:]
        where, also = ("truth", f", or {IGNORE} for ignore") if found[1] else ("prediction", "")
        expected = f"0 ... {len(self.classes) - 1} is expected, for {len(self.classes)} classes{also}"
        return f"Image {image_id!r}: `semantic` of its {where} is {value} in {pixels} pixels; {expected}."


def _maps(image_id: _Id, found: Predictions, truth: Targets) -> tuple[Tensor, Tensor]:
    """The two label maps, on the prediction's device."""
    if "semantic" not in found:
        raise DataError(f"Image {image_id!r}: its prediction has no `semantic`, only {', '.join(found) or 'nothing'}.")
    prediction = torch.as_tensor(found["semantic"])
    known = torch.as_tensor(truth["semantic"]).to(prediction.device, non_blocking=True)
    for where, labels in (("truth", known), ("prediction", prediction)):
        if labels.dtype != torch.uint8 or labels.ndim != 2:
            kind = f"{tuple(labels.shape)} {str(labels.dtype).removeprefix('torch.')}"
            raise DataError(f"Image {image_id!r}: `semantic` of its {where} is {kind}; (H, W) uint8 is expected.")
    if known.shape != prediction.shape:
        sizes = " and ".join(f"{labels.shape[0]} x {labels.shape[1]}" for labels in (prediction, known))
        raise DataError(f"Image {image_id!r}: prediction and truth differ in height x width: {sizes}.")
    return known, prediction


def _sum_up(sums: dict[torch.device, Tensor], counts: Tensor) -> None:
    sums[counts.device] = sums[counts.device] + counts if counts.device in sums else counts


def _total(sums: dict[torch.device, Tensor], size: int) -> np.ndarray:
    return sum((counts.cpu().numpy() for counts in sums.values()), np.zeros((size, size), np.int64))


def _iou(counts: np.ndarray) -> np.ndarray:
    hits = counts.diagonal()
    return _ratio(hits, counts.sum(0) + counts.sum(1) - hits)


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """nan where the whole is nothing."""
    with np.errstate(invalid="ignore"):
        return np.divide(part, whole)


def _mean(values: np.ndarray) -> float:
    """The mean of what is known; nan where nothing is."""
    known = values[~np.isnan(values)]
    return float(known.mean()) if known.size else float("nan")
