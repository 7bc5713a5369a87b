"""Standard error metrics of depth maps."""

import math
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from densevit.errors import ConfigError, DataError
from densevit.evaluation.depth_alignment import (
    MARKS,
    Alignment,
    to_median,
    to_scale_and_shift,
    to_scale_and_shift_of_disparity,
)
from densevit.evaluation.depth_crops import Crop, cropped
from densevit.evaluation.depth_distances import distance_plots, distance_table, sums_by_distance
from densevit.interfaces import Class, Dataset, Evaluator, Head, Plot, Predictions, Table, Targets

_Id = int | str
_ERRORS = ("AbsRel", "SqRel", "RMSE", "RMSElog", "log10", "SILog")
_DELTAS = (1.25, 1.25**2, 1.25**3)
_RELATIVE_ALIGNMENTS: tuple[Alignment, ...] = ("scale_shift_disparity", "median")  # for relative depth


class DepthErrors(Evaluator):
    """Errors of predicted depth, in metres or relative to the ground truth.

    With p and g a pixel's depth in prediction and ground truth, and l = ln p - ln g, means over an image's pixels
    (Eigen et al. 2014, section 4.2):

        AbsRel   |p - g| / g            RMSE     root of (p - g)^2       log10  |log10 p - log10 g|
        SqRel    (p - g)^2 / g          RMSElog  root of l^2             SILog  root of l^2 - (mean of l)^2
        delta1, delta2, delta3          the fraction of pixels with max(p / g, g / p) below 1.25, 1.25^2, 1.25^3

    A metric is the mean over images, as in publications. SILog is not multiplied by 100, unlike on KITTI's leaderboard.
    Higher is better for `delta1` to `delta3`, lower for all others.

    min_depth, max_depth: exclusive bounds of valid ground truth, as in published protocols (NYU 1e-3 and 10, KITTI 1e-3
        and 80); predictions are clamped to them, after alignment. max_depth null: no limit, but relative predictions
        and predictions aligned in disparity are clamped to the image's largest valid ground truth.
    crop: the evaluated part of an image: eigen (NYU), garg or eigen_kitti.
    align: how each prediction is aligned to the ground truth, over valid pixels: none, median, scale_shift (least
        squares in depth), scale_shift_disparity (least squares in 1 / depth, MiDaS's protocol). null: none, or
        scale_shift_disparity for a head for relative depth. Metric names contain the alignment:
        `AbsRel_aligned_median`, `AbsRel_aligned_depth`, `AbsRel_aligned_disparity`.
    deltas: further thresholds; 1.1 adds `delta_1.1`.
    per_pixel: adds each metric over the pixels of all images: `AbsRel_pixel`.
    """

    reads = (("depth", "inverse_depth"),)
    main = "AbsRel"
    by_image = "_sums"

    def __init__(
        self,
        classes: Sequence[Class],
        min_depth: float = 1e-3,
        max_depth: float | None = None,
        crop: Crop = "none",
        align: Alignment | None = None,
        deltas: tuple[float, ...] = (),
        per_pixel: bool = False,
    ) -> None:
        super().__init__(classes)
        if not 0 < min_depth < math.inf:
            raise ConfigError(f"min_depth is {min_depth}; a depth above 0 is expected.")
        if max_depth is not None and not max_depth > min_depth:
            raise ConfigError(f"max_depth is {max_depth}; a depth above min_depth, {min_depth}, is expected.")
        if not all(limit > 1 for limit in deltas):
            raise ConfigError(f"deltas is {list(deltas)}; ratios above 1 are expected, such as 1.1.")
        self.min_depth, self.max_depth = min_depth, math.inf if max_depth is None else max_depth
        self.crop, self.per_pixel = crop, per_pixel
        self._align_is_set = align is not None
        self._align_by("none" if align is None else align)
        named = {f"delta{n}": limit for n, limit in enumerate(_DELTAS, 1)}
        self.deltas = named | {f"delta_{limit:g}": limit for limit in deltas}
        self.reset()

    def _align_by(self, align: Alignment) -> None:
        self.align, mark = align, MARKS[align]
        self.main = f"AbsRel{mark}"
        self.lower_is_better = tuple(f"{name}{mark}{over}" for over in ("", "_pixel") for name in _ERRORS)

    def prepare(self, head: Head, data: Dataset) -> None:
        """Sets the default alignment of a head for relative depth. Raises ConfigError for an alignment that compares
        metres with relative values."""
        name = type(head).__name__
        if head.quantity == "inverse_depth":
            if not self._align_is_set:
                self._align_by("scale_shift_disparity")
            elif self.align not in _RELATIVE_ALIGNMENTS:
                raise ConfigError(
                    f"align is {self.align}, but {name} predicts inverse depth of unknown scale and shift, not metres. "
                    f"Choose {' or '.join(_RELATIVE_ALIGNMENTS)}; without align, the first is used."
                )
        elif head.quantity == "depth" and not data.metric and self.align == "none":
            raise ConfigError(
                f"align is none, but the depth of the data has no unit (metric: false), and {name} predicts metres. "
                "Choose median, scale_shift or scale_shift_disparity."
            )

    def reset(self) -> None:
        """Removes all images."""
        self._sums: dict[_Id, np.ndarray] = {}  # only of images with valid pixels
        self._distances: dict[_Id, np.ndarray] = {}  # the same images
        self._empty: set[_Id] = set()
        self._reversed: set[_Id] = set()  # aligned with a negative scale

    def update(self, predictions: Sequence[Predictions], truths: Sequence[Targets]) -> None:
        """Adds one prediction and one target per image, in original pixels; tensors of any device.

        predictions: depth (H, W) in metres, or inverse_depth (H, W), relative. truths: image_id, depth (H, W) in
        metres, 0 = unknown. Ignores images without `depth` in their target or without valid pixels, and images added
        before. Raises DataError for a prediction that lacks both, has another size than its ground truth, is not finite
        at a valid pixel, or is relative while `align` is none.
        """
        for prediction, truth in zip(predictions, truths, strict=True):
            image_id = truth["image_id"] if isinstance(truth["image_id"], str) else int(truth["image_id"])
            if "depth" not in truth or image_id in self._sums or image_id in self._empty:
                continue
            try:
                p, g, scale = self._pixels(prediction, torch.as_tensor(truth["depth"]))
            except DataError as error:
                raise DataError(f"Image {image_id!r}: {error}") from None
            if len(g):
                self._sums[image_id] = self._sums_of(p, g)
                self._distances[image_id] = sums_by_distance(p, g)
                self._reversed |= {image_id} if scale < 0 else set()
            else:
                self._empty.add(image_id)

    def _pixels(self, outputs: Predictions, truth: Tensor) -> tuple[np.ndarray, np.ndarray, float]:
        """Predicted depths, aligned and clamped, and true depths at valid pixels: (N,) float64 each; and the scale of
        the alignment."""
        relative = "depth" not in outputs
        key = "inverse_depth" if relative else "depth"
        if key not in outputs:
            raise DataError(
                f"its prediction has no `depth` and no `inverse_depth`, only {', '.join(outputs) or 'nothing'}."
            )
        if relative and self.align not in _RELATIVE_ALIGNMENTS:
            raise DataError(
                f"its prediction is relative (`inverse_depth`), which align: {self.align} cannot measure in metres. "
                f"Set evaluation.align to {' or '.join(_RELATIVE_ALIGNMENTS)}."
            )
        prediction = torch.as_tensor(outputs[key]).detach().cpu()
        if prediction.shape != truth.shape or truth.ndim != 2:
            sizes = " and ".join(" x ".join(map(str, depth.shape)) for depth in (prediction, truth))
            raise DataError(f"prediction and ground truth differ in height x width, or are not 2-D: {sizes}.")
        part = cropped(self.crop, *truth.shape)
        truth = truth.detach().cpu()[part]
        counts = (truth > self.min_depth) & (truth < self.max_depth)
        p, g = (depth[counts].double().numpy() for depth in (prediction[part], truth))
        if not np.isfinite(p).all():
            wrong = np.count_nonzero(~np.isfinite(p))
            raise DataError(f"`{key}` of its prediction is not finite in {wrong} of the {p.size} valid pixels.")
        aligned, scale = self._aligned(p, g, relative) if len(g) else (p, 1.0)
        return aligned, g, scale

    def _aligned(self, p: np.ndarray, g: np.ndarray, relative: bool) -> tuple[np.ndarray, float]:
        """p: (N,) depths, or disparities if `relative`. Returns depths within the limits, and the fitted scale; 1
        without least squares."""
        ends = relative or self.align == "scale_shift_disparity"
        low, high = self.min_depth, float(g.max()) if ends and self.max_depth == math.inf else self.max_depth
        if self.align == "scale_shift_disparity":
            disparity = p if relative else 1 / np.maximum(p, low)
            return to_scale_and_shift_of_disparity(disparity, g, low, high)
        if relative:  # a disparity of at most 0 is an infinite depth
            p = np.divide(1, p, out=np.full_like(p, np.inf), where=p > 0)
        scale = 1.0
        if self.align == "median":
            p = to_median(p, g)
        elif self.align == "scale_shift":
            p, scale = to_scale_and_shift(p, g)
        return np.clip(p, low, high), scale

    def _sums_of(self, p: np.ndarray, g: np.ndarray) -> np.ndarray:
        """The number of pixels, the sums over pixels from which the metrics are computed, and the mean of l = ln p - ln
        g."""
        difference, ratio = p - g, p / g
        log = np.log(ratio)
        mean = log.mean()
        sums = [
            len(g),
            np.sum(np.abs(difference) / g),
            np.sum(difference**2 / g),
            np.sum(difference**2),
            np.sum(log**2),
            np.sum(np.abs(log)) / math.log(10),
            np.sum((log - mean) ** 2),
            mean,
        ]
        worst = np.maximum(ratio, g / p)
        return np.array([*sums, *(np.count_nonzero(worst < limit) for limit in self.deltas.values())], np.float64)

    def state(self) -> dict[str, Any]:
        """The sums of each image by id, and the ids of images without valid pixels and of negative scale."""
        return {
            "sums": dict(self._sums),
            "distances": dict(self._distances),
            "empty": sorted(self._empty, key=str),
            "reversed": sorted(self._reversed, key=str),
        }

    def merge(self, states: Sequence[dict[str, Any]]) -> None:
        """Replaces the state by the states of all processes; an image in several of them counts once."""
        self.reset()
        for state in states:
            self._sums = state["sums"] | self._sums
            self._distances = state["distances"] | self._distances
            self._empty.update(state["empty"])
            self._reversed.update(state["reversed"])

    def compute(self) -> dict[str, float]:
        """The metrics: metres or fractions, nan without valid pixels. Warns about images without valid pixels, and if
        the fitted scale of most images is negative."""
        if self._empty:
            seen = len(self._sums) + len(self._empty)
            part = "" if self.crop == "none" else f" within the crop {self.crop!r}"
            warnings.warn(
                f"{len(self._empty)} of {seen} images have no pixel of known depth between {self.min_depth:g} and "
                f"{self.max_depth:g} m{part}; they are ignored.",
                stacklevel=2,
            )
        if 2 * len(self._reversed) > len(self._sums):
            warnings.warn(
                f"The fitted scale of {len(self._reversed)} of {len(self._sums)} images is negative: predictions grow "
                "where the ground truth falls, and the errors measure the reversed prediction. Fix: check "
                "data.quantity (depth or inverse_depth) and what the model predicts.",
                stacklevel=2,
            )
        images = list(self._sums.values())
        by_image = [_metrics([sums]) for sums in images]
        values = [_mean(column) for column in zip(*by_image, strict=True)] or [math.nan] * len(self._names)
        metrics = dict(zip(self._names, values, strict=True))
        if self.per_pixel:
            pooled = _metrics(images) if images else values
            metrics |= {f"{name}_pixel": value for name, value in zip(self._names, pooled, strict=True)}
        return metrics

    def tables(self) -> dict[str, Table]:
        """Errors by interval of true depth, within `max_depth` and `crop`."""
        return {"distance": distance_table(self._distances.values())}

    def plots(self) -> dict[str, Plot]:
        """Errors by distance."""
        return distance_plots(self._distances.values())

    def image_scores(self) -> dict[_Id, float]:
        """The negative AbsRel of each image."""
        return {image_id: -float(sums[1] / sums[0]) for image_id, sums in self._sums.items()}

    @property
    def _names(self) -> list[str]:
        return [f"{name}{MARKS[self.align]}" for name in (*_ERRORS, *self.deltas)]


def _metrics(images: Sequence[np.ndarray]) -> list[float]:
    """The metrics over the pixels of all `images`, in the order of `DepthErrors._names`."""
    pixels, *sums, spread, _ = (_sum(column) for column in zip(*(image[:8].tolist() for image in images), strict=True))
    abs_rel, sq_rel, square, log_square, log10 = (total / pixels for total in sums)
    mean = _sum(image[0] * image[7] for image in images) / pixels
    spread += _sum(image[0] * (image[7] - mean) ** 2 for image in images)  # of the images' means
    deltas = [_sum(column) / pixels for column in zip(*(image[8:].tolist() for image in images), strict=True)]
    roots = [math.sqrt(square), math.sqrt(log_square)]
    return [abs_rel, sq_rel, *roots, log10, math.sqrt(spread / pixels), *deltas]


def _mean(values: Sequence[float]) -> float:
    return _sum(values) / len(values)


_sum = math.fsum  # exact, so the order of images does not matter
