"""Comparison of the predictions of a file with the predictions of `densevit predict`."""

import math
from collections.abc import Mapping

import numpy as np
from torch import nn

from densevit.interfaces import Predictions, Size, TargetType
from densevit.targets.types import TargetTypes
from densevit_export.file_comparison import value_range

_SHARE = 0.1  # weight of a share of pixels or objects, compared with differences of values
_SAME = 10  # limits: the largest difference between an object and its counterpart


def differences(
    head: nn.Module, expected: Predictions, predictions: Mapping[str, np.ndarray], original: Size, limit: float
) -> dict[str, float]:
    """The differences of the predictions of an image, by name; infinite for a value that is missing or of another type.

    Objects are compared with counterparts of the same class, because nearly equal scores may change the order.
    `objects` is a tenth of the share of objects without a counterpart; objects whose score is the lowest, to within the
    limit, need none, as rounding decides whether they are selected. Boxes, which may enclose masks, are not compared
    where masks differ. For masks and integer maps, the result is a tenth of the share of pixels that differ; for other
    values, the largest difference relative to `comparison.value_range`.
    original: (H, W) of the image.
    """
    types = TargetTypes(getattr(head, "target_types", None))
    values = {key: value.numpy() for key, value in expected.items()}
    for key, value in values.items():
        if key not in predictions or predictions[key].dtype != value.dtype or predictions[key].ndim != value.ndim:
            return {key: float("inf")}
    result: dict[str, float] = {}
    objects = {key: value for key, value in values.items() if key in types and types[key].per == "object"}
    if {"scores", "labels"} <= objects.keys():
        expected_rows, file_rows = _counterparts(objects, predictions, original, limit)
        missing = 0
        for scores, matched in ((objects["scores"], expected_rows), (predictions["scores"], file_rows)):
            last = scores.min(initial=1.0) + _SAME * limit
            missing += int((np.delete(scores, matched) > last).sum())
        result["objects"] = _SHARE * missing / max(1, len(objects["scores"]))
        same_expected = same_file = slice(None)
        if "masks" in objects:
            equal = (objects["masks"][expected_rows] == predictions["masks"][file_rows]).all((1, 2))
            same_expected, same_file = expected_rows[equal], file_rows[equal]
        for key in objects.keys() - {"labels"}:
            same_masks = (same_expected, same_file) if "masks" in objects else (expected_rows, file_rows)
            rows = same_masks if key == "boxes" else (expected_rows, file_rows)
            result[key] = _difference(objects[key][rows[0]], predictions[key][rows[1]], types.get(key), original)
        values = {key: value for key, value in values.items() if key not in objects}
    return result | {
        key: _difference(value, predictions[key], types.get(key), original) for key, value in values.items()
    }


def _counterparts(
    expected: Mapping[str, np.ndarray], predictions: Mapping[str, np.ndarray], original: Size, limit: float
) -> tuple[np.ndarray, np.ndarray]:
    """The rows (N,) of corresponding objects: of one class, with nearly equal scores and masks, or else boxes."""
    from scipy.optimize import linear_sum_assignment

    cost = np.abs(expected["scores"][:, None] - predictions["scores"])
    if "masks" in expected:
        masks = (values["masks"] for values in (expected, predictions))
        x, y = (value.reshape(len(value), math.prod(value.shape[1:])).astype(np.float32) for value in masks)
        pixels = x.sum(1)[:, None] + y.sum(1) - 2 * x @ y.T  # that differ
        cost = np.maximum(cost, _SHARE * pixels / (original[0] * original[1]))
    elif "boxes" in expected:
        apart = np.abs(expected["boxes"][:, None] - predictions["boxes"]).max(-1, initial=0.0)
        cost = np.maximum(cost, apart / max(original))
    cost = np.where(expected["labels"][:, None] == predictions["labels"], cost, 1e3)
    rows, columns = linear_sum_assignment(np.where(cost <= _SAME * limit, cost, 1e3))
    same = cost[rows, columns] <= _SAME * limit
    return rows[same], columns[same]


def _difference(expected: np.ndarray, actual: np.ndarray, target_type: TargetType | None, original: Size) -> float:
    if expected.shape != actual.shape:
        return float("inf")
    if expected.dtype.kind != "f":
        return _SHARE * float((expected != actual).mean()) if expected.size else 0.0
    difference = float(np.abs(expected.astype(np.float64) - actual).max(initial=0.0))
    span = value_range(target_type, expected, original)
    return difference / span if np.isfinite(difference) else float("inf")
