"""Alignment of relative depth predictions to the ground truth."""

from typing import Literal

import numpy as np

Alignment = Literal["none", "median", "scale_shift", "scale_shift_disparity"]
MARKS: dict[Alignment, str] = {  # suffixes of metric names
    "none": "",
    "median": "_aligned_median",
    "scale_shift": "_aligned_depth",
    "scale_shift_disparity": "_aligned_disparity",
}


def least_squares(x: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    """The scale and shift that minimise the sum of (scale x + shift - y)^2.

    x, y: (N,) float64. If all x are equal, scale is 0 and shift the mean of y.
    """
    if x.min() == x.max():
        return 0.0, float(y.mean())
    from_mean = x - x.mean()
    scale = np.sum(from_mean * (y - y.mean())) / np.sum(from_mean * from_mean)
    return float(scale), float(y.mean() - scale * x.mean())


def to_median(prediction: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Scales a prediction to the ground truth's median (Zhou et al. 2017, section 4.1) if its median is positive and
    finite. prediction, truth: (N,) depths."""
    median = np.median(prediction)
    return prediction * (np.median(truth) / median) if 0 < median < np.inf else prediction


def to_scale_and_shift(prediction: np.ndarray, truth: np.ndarray) -> tuple[np.ndarray, float]:
    """Least-squares alignment in depth. prediction, truth: (N,) depths. Returns (N,) depths and the scale."""
    scale, shift = least_squares(prediction, truth)
    return scale * prediction + shift, scale


def to_scale_and_shift_of_disparity(
    disparity: np.ndarray, truth: np.ndarray, min_depth: float, max_depth: float
) -> tuple[np.ndarray, float]:
    """Least-squares alignment in disparity, 1 / depth, converted to depth (MiDaS, Ranftl et al. 2020, section 6).

    disparity: (N,), relative or metric. truth: (N,) depths. Depths beyond `max_depth` or behind the camera become
    `max_depth`. Returns (N,) depths and the scale.
    """
    scale, shift = least_squares(disparity, 1 / truth)
    return 1 / np.clip(scale * disparity + shift, 1 / max_depth, 1 / min_depth), scale
