"""Mean intersection over union of label maps, from a confusion matrix over the data set."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from densevit.errors import ConfigError, DataError
from densevit.evaluation.confusion_counts import boundary as boundary_of
from densevit.evaluation.confusion_counts import count_pairs, invalid_labels, labelled_pixels
from densevit.evaluation.mask_boundary import boundary_fraction, boundary_width
from densevit.interfaces import DEFAULT_THRESHOLD, IGNORE, Classes, Evaluator, Predictions, Table, Targets, image_id


class LabelCounts(NamedTuple):
    """The confusion counts of an image.

    pairs: (2, M), flat indices into the confusion matrix, and their pixels, without zeros. bands: the same of pixels
    near boundaries; None without boundary metrics.
    """

    pairs: np.ndarray
    bands: np.ndarray | None


class SemanticSegmentation(Evaluator):
    """Intersection over union and accuracy of classes, from exact pixel counts over all images.

    With n_ij the pixels of class i in the ground truth predicted as j (Long et al. 2015, section 5), without pixels of
    255 in the ground truth:

        IoU/<class>  n_ii / (sum_j n_ij + sum_j n_ji - n_ii); nan for a class in neither ground truth nor predictions
        Acc/<class>  n_ii / sum_j n_ij, the recall; nan for a class without ground truth
        mIoU, mAcc   the mean over classes, without nan
        aAcc         the fraction of correct pixels
        fwIoU        the mean of IoU, weighted by the class frequencies in the ground truth

    A pixel of 255 in the prediction has another class, which counts as wrong.

    boundary: adds BIoU/<class> and their mean mBIoU, the boundary IoU of Cheng et al. 2021: IoU of the pixels near the
    regions' boundaries. Near is a distance of `boundary` times the image diagonal, rounded, at least 1 pixel; true:
    the paper's 0.02. Intersections and unions are summed over all images, as for IoU. Pixels of 255 in the ground truth
    count as outside the image, in ground truth and prediction.

    On a GPU the pixels are counted there; the counts of a batch are one transfer.
    """

    reads = ("semantic",)
    main = "mIoU"

    def __init__(self, classes: Classes, boundary: bool | float = False) -> None:
        super().__init__(classes)
        if not 1 <= len(self.classes) <= IGNORE:
            raise ConfigError(f"Segmentation supports 1 to {IGNORE} classes; found {len(self.classes)}.")
        self.boundary = boundary_fraction(boundary)

    def record(self, prediction: Predictions, truth: Targets) -> LabelCounts | None:
        """prediction: semantic (H, W) uint8. truth: semantic (H, W) uint8, 255 = ignore.

        Raises DataError for different sizes of prediction and ground truth, and for invalid labels.
        """
        [record] = self.batch_records([prediction], [truth])
        return record

    def batch_records(self, predictions: Sequence[Predictions], truths: Sequence[Targets]) -> list[LabelCounts | None]:
        pairs = zip(predictions, truths, strict=True)
        maps = [_maps(*pair) if "semantic" in pair[1] else None for pair in pairs]
        counts = iter(_on_host([self._counts(*pair) for pair in maps if pair is not None]))
        return [
            None if pair is None else self._record(image_id(truth), next(counts), *pair)
            for pair, truth in zip(maps, truths, strict=True)
        ]

    def _counts(self, truth: Tensor, prediction: Tensor) -> list[Tensor]:
        """The confusion counts, the number of labelled pixels, and the counts near boundaries, on the maps' device."""
        side, band_side = self._sides
        tensors = [count_pairs(truth, prediction, side), labelled_pixels(truth)]
        if self.boundary:
            width = boundary_width(self.boundary, (truth.shape[0], truth.shape[1]))
            masked = torch.where(truth == IGNORE, truth, prediction)
            edges = [boundary_of(x, width, band_side - 1) for x in (truth, masked)]
            tensors.append(count_pairs(edges[0], edges[1], band_side))
        return tensors

    def _record(
        self, image_id: int | str, counts: Sequence[np.ndarray], truth: Tensor, prediction: Tensor
    ) -> LabelCounts:
        pairs, other = self._pairs(counts[0]), len(self.classes)
        if other < IGNORE and (pairs[1].sum() != counts[1] or (pairs[0] % (other + 1) == other).any()):
            is_other = prediction == IGNORE  # or no class
            invalid = invalid_labels(truth, torch.where(is_other, 0, prediction), other).tolist()
            if any(invalid):
                raise DataError(self._fault(image_id, invalid))
            renamed = torch.where(is_other, other, prediction).to(torch.uint8)
            [counts] = _on_host([self._counts(truth, renamed)])
            pairs = self._pairs(counts[0])
        return LabelCounts(pairs, _sparse(counts[2]) if self.boundary else None)

    def _pairs(self, counts: np.ndarray) -> np.ndarray:
        counts[len(self.classes) :] = 0  # no class in the ground truth
        return _sparse(counts)

    def compute(self, records: Sequence[LabelCounts]) -> dict[str, float]:
        """The metrics: fractions 0 ... 1, nan if undefined."""
        counts = self.counts(records)
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
            bands = _total([x.bands for x in records if x.bands is not None], self._sides[1])
            by_class["BIoU"] = _iou(bands)[:classes]
            metrics["mBIoU"] = _mean(by_class["BIoU"])
        return metrics | {
            f"{name}/{c.name}": float(value)
            for name, values in by_class.items()
            for c, value in zip(self.classes, values, strict=True)
        }

    def counts(self, records: Sequence[LabelCounts]) -> np.ndarray:
        """The confusion matrix, (K + 1, K + 1) int64: pixels by class in ground truth (rows) and prediction (columns),
        other classes last."""
        return _total([x.pairs for x in records], self._sides[0])

    @property
    def _sides(self) -> tuple[int, int]:
        """The sides of the confusion matrix and of the one near boundaries, whose last index is all other pixels and,
        with 255 classes, other classes."""
        side = len(self.classes) + 1
        return side, min(side, IGNORE) + 1

    def tables(self, records: Sequence[LabelCounts], threshold: float = DEFAULT_THRESHOLD) -> dict[str, Table]:
        """Pixels, IoU, recall and precision per class; the confusion matrix."""
        counts, names = self.counts(records), [*(c.name for c in self.classes), "other classes"]
        if not counts[:, -1].any():
            counts, names = counts[:-1, :-1], names[:-1]
        truth, predicted, hits = counts.sum(1), counts.sum(0), counts.diagonal()
        columns = [truth, _iou(counts), _ratio(hits, truth), _ratio(hits, predicted)]
        classes = [list(row) for row in zip(names, *(column.tolist() for column in columns), strict=True)]
        classes = classes[: len(self.classes)]
        rows = [[name, *row] for name, row in zip(names, counts.tolist(), strict=True)]
        return {
            "classes": [["class", "pixels", "IoU", "recall", "precision"], *classes],
            "confusion": [["truth \\ prediction", *names], *rows],
        }

    def image_scores(self, records: Sequence[LabelCounts], threshold: float = DEFAULT_THRESHOLD) -> list[float | None]:
        """The mean IoU of each image, over the classes in its ground truth or prediction."""
        scores = [_mean(_iou(self.counts([record]))) for record in records]
        return [score if score == score else None for score in scores]

    def _fault(self, image_id: int | str, invalid: Sequence[int]) -> str:
        value, pixels = invalid[:2] if invalid[1] else invalid[2:]
        where, also = ("ground truth", f", or {IGNORE} for ignore") if invalid[1] else ("prediction", "")
        expected = f"0 ... {len(self.classes) - 1} is expected, for {len(self.classes)} classes{also}"
        return f"Image {image_id!r}: `semantic` of its {where} is {value} in {pixels} pixels; {expected}."


def _maps(outputs: Predictions, target: Targets) -> tuple[Tensor, Tensor]:
    """The label maps of ground truth and prediction, on the prediction's device."""
    prediction = torch.as_tensor(outputs["semantic"])
    truth_map = torch.as_tensor(target["semantic"]).to(prediction.device, non_blocking=True)
    for where, labels in (("ground truth", truth_map), ("prediction", prediction)):
        if labels.dtype != torch.uint8 or labels.ndim != 2:
            actual = f"{tuple(labels.shape)} {str(labels.dtype).removeprefix('torch.')}"
            fix = "" if where == "ground truth" else " Fix: in predict and read_maps, return labels.to(torch.uint8)."
            raise DataError(
                f"Image {image_id(target)!r}: `semantic` of its {where} is {actual}; (H, W) uint8 is expected.{fix}"
            )
    if truth_map.shape != prediction.shape:
        sizes = " and ".join(f"{labels.shape[0]} x {labels.shape[1]}" for labels in (prediction, truth_map))
        raise DataError(f"Image {image_id(target)!r}: prediction and ground truth differ in height x width: {sizes}.")
    return truth_map, prediction


def _on_host(images: Sequence[Sequence[Tensor]]) -> list[list[np.ndarray]]:
    """The tensors of images as arrays, with one transfer from a device."""
    flat = [x for tensors in images for x in tensors]
    if flat and flat[0].device.type != "cpu":
        rows = torch.cat([x.flatten() for x in flat]).cpu().split([x.numel() for x in flat])
        flat = [row.view(x.shape) for row, x in zip(rows, flat, strict=True)]
    arrays = iter(flat)
    return [[next(arrays).numpy() for _ in tensors] for tensors in images]


def _sparse(counts: np.ndarray) -> np.ndarray:
    """The flat indices of counts above 0, and these counts, (2, M), in a small type."""
    values = counts.ravel()
    places = np.flatnonzero(values != 0)  # faster than of integers
    pairs = np.stack([places, values[places]])
    return pairs.astype(np.uint32) if pairs.max(initial=0) < 1 << 32 else pairs


def _total(images: Iterable[np.ndarray], side: int) -> np.ndarray:
    """The sum of sparse counts, (side, side) int64."""
    total = np.zeros(side * side, np.int64)
    for places, counts in images:
        total[places] += counts  # a place occurs once in an image
    return total.reshape(side, side)


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
