"""Standard error metrics of depth maps."""

import math
import warnings
from collections.abc import Sequence
from math import fsum
from typing import NamedTuple

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
from densevit.interfaces import (
    DEFAULT_THRESHOLD,
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

_ERRORS = ("AbsRel", "SqRel", "RMSE", "RMSElog", "log10", "SILog")
_DELTAS = (1.25, 1.25**2, 1.25**3)
_RELATIVE_ALIGNMENTS: tuple[Alignment, ...] = ("scale_shift_disparity", "median")  # for relative depth


class DepthSums(NamedTuple):
    """What is kept of an image.

    errors: sums over its N valid pixels (`DepthErrors.sums_of`); N is 0 without any. distances: the
    result of `sums_by_distance`. scale: the fitted scale of its alignment.
    """

    errors: np.ndarray
    distances: np.ndarray
    scale: float


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

    def __init__(
        self,
        classes: Classes,
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

    def _align_by(self, align: Alignment) -> None:
        self.align, mark = align, MARKS[align]
        self.main = f"AbsRel{mark}"
        self.lower_is_better = tuple(f"{name}{mark}{over}" for over in ("", "_pixel") for name in _ERRORS)

    def prepare(self, head: Head, data: Dataset) -> None:
        """Sets the default alignment of a head for relative depth. Raises ConfigError for an alignment that compares
        metres with relative values."""
        name = type(head).__name__
        if head.depth_type == "inverse_depth":
            if not self._align_is_set:
                self._align_by("scale_shift_disparity")
            elif self.align not in _RELATIVE_ALIGNMENTS:
                raise ConfigError(
                    f"align is {self.align}, but {name} predicts inverse depth of unknown scale and shift, not metres. "
                    f"Choose {' or '.join(_RELATIVE_ALIGNMENTS)}; without align, the first is used."
                )
        elif head.depth_type == "depth" and not data.metric and self.align == "none":
            raise ConfigError(
                f"align is none, but the depth of the data has no unit (metric: false), and {name} predicts metres. "
                "Choose median, scale_shift or scale_shift_disparity."
            )

    def record(self, prediction: Predictions, truth: Targets) -> DepthSums | None:
        """prediction: depth (H, W) in metres, or inverse_depth (H, W), relative. truth: depth (H, W) in metres, 0 =
        unknown.

        Raises DataError for a prediction that has another size than its ground truth, is not finite at a
        valid pixel, or is relative while `align` is none.
        """
        if "depth" not in truth:
            return None
        try:
            p, g, scale = self._pixels(prediction, torch.as_tensor(truth["depth"]))
        except DataError as error:
            raise DataError(f"Image {image_id(truth)!r}: {error}") from None
        return DepthSums(self.sums_of(p, g), sums_by_distance(p, g), scale)

    def _pixels(self, outputs: Predictions, truth: Tensor) -> tuple[np.ndarray, np.ndarray, float]:
        """Predicted depths, aligned and clamped, and true depths at valid pixels: (N,) float64 each; and the scale of
        the alignment."""
        relative = "depth" not in outputs
        key = "inverse_depth" if relative else "depth"
        if relative and self.align not in _RELATIVE_ALIGNMENTS:
            raise DataError(
                f"its prediction is relative (`inverse_depth`), which align: {self.align} cannot measure in metres. "
                f"Set evaluation.align to {' or '.join(_RELATIVE_ALIGNMENTS)}."
            )
        prediction = torch.as_tensor(outputs[key]).detach().cpu()
        if prediction.shape != truth.shape or truth.ndim != 2:
            sizes = " and ".join(" x ".join(map(str, depth.shape)) for depth in (prediction, truth))
            raise DataError(f"prediction and ground truth differ in height x width, or are not 2-D: {sizes}.")
        if not truth.is_floating_point():
            raise DataError(f"the depth of its ground truth has the type {truth.dtype}; expected floats in metres.")
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

    def sums_of(self, p: np.ndarray, g: np.ndarray) -> np.ndarray:
        """The number of pixels, the sums over pixels from which the metrics are computed, and the mean of l = ln p - ln
        g."""
        difference, ratio = p - g, p / g
        log = np.log(ratio)
        mean = log.mean() if len(g) else 0.0
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

    def compute(self, records: Sequence[DepthSums]) -> dict[str, float]:
        """The metrics: metres or fractions, nan without valid pixels. Warns about images without valid pixels, and if
        the fitted scale of most images is negative."""
        images = [record.errors for record in records if record.errors[0]]
        if len(images) < len(records):
            part = "" if self.crop == "none" else f" within the crop {self.crop!r}"
            warnings.warn(
                f"{len(records) - len(images)} of {len(records)} images have no pixel of known depth between "
                f"{self.min_depth:g} and {self.max_depth:g} m{part}; they are ignored.",
                stacklevel=2,
            )
        negative = sum(record.scale < 0 for record in records)
        if 2 * negative > len(images):
            warnings.warn(
                f"The fitted scale of {negative} of {len(images)} images is negative: predictions grow "
                "where the ground truth falls, and the errors measure the reversed prediction. Fix: check "
                "data.depth_type (depth or inverse_depth) and what the model predicts.",
                stacklevel=2,
            )
        by_image = [_metrics([sums]) for sums in images]
        values = [fsum(column) / len(column) for column in zip(*by_image, strict=True)] or [math.nan] * len(self._names)
        metrics = dict(zip(self._names, values, strict=True))
        if self.per_pixel:
            pooled = _metrics(images) if images else values
            metrics |= {f"{name}_pixel": value for name, value in zip(self._names, pooled, strict=True)}
        return metrics

    def tables(self, records: Sequence[DepthSums], threshold: float = DEFAULT_THRESHOLD) -> dict[str, Table]:
        """Errors by interval of true depth, within `max_depth` and `crop`."""
        return {"distance": distance_table([record.distances for record in records])}

    def plots(self, records: Sequence[DepthSums]) -> dict[str, Plot]:
        """Errors by distance."""
        return distance_plots([record.distances for record in records])

    def image_scores(self, records: Sequence[DepthSums], threshold: float = DEFAULT_THRESHOLD) -> list[float | None]:
        """The negative AbsRel of each image."""
        return [-float(x.errors[1] / x.errors[0]) if x.errors[0] else None for x in records]

    @property
    def _names(self) -> list[str]:
        return [f"{name}{MARKS[self.align]}" for name in (*_ERRORS, *self.deltas)]


def _metrics(images: Sequence[np.ndarray]) -> list[float]:
    """The metrics over the pixels of all `images`, in the order of `DepthErrors._names`. Sums are exact: the order
    of images does not matter."""
    pixels, *sums, spread, _ = (fsum(column) for column in zip(*(image[:8].tolist() for image in images), strict=True))
    abs_rel, sq_rel, square, log_square, log10 = (total / pixels for total in sums)
    mean = fsum(image[0] * image[7] for image in images) / pixels
    spread += fsum(image[0] * (image[7] - mean) ** 2 for image in images)  # of the images' means
    deltas = [fsum(column) / pixels for column in zip(*(image[8:].tolist() for image in images), strict=True)]
    roots = [math.sqrt(square), math.sqrt(log_square)]
    return [abs_rel, sq_rel, *roots, log10, math.sqrt(spread / pixels), *deltas]
