"""Comparison of the predictions that a file makes with those of `densevit predict`."""

import math
from collections.abc import Mapping

import numpy as np
from torch import nn

from densevit.exporting.comparison import value_range
from densevit.interfaces import Predictions, Size, TargetType
from densevit.targets.types import TargetTypes

_SHARE = 0.1  # the weight of a share of pixels or of objects, beside differences of values
_SAME = 10  # limits: the largest difference between an object and its counterpart


def differences(
    head: nn.Module, expected: Predictions, predictions: Mapping[str, np.ndarray], original: Size, limit: float
) -> dict[str, float]:
    """The differences of the predictions of an image, by name; infinite if a value is missing or has another type.

    Values of objects are compared between counterparts of the same class, because objects with nearly equal scores may
    have another order. `objects` is a tenth of the share of objects without a counterpart. An object needs none if its
    score is the least of all, to within the limit: rounding decides whether it is selected. Boxes are not compared
    where masks differ, which boxes may enclose. Of masks and maps of integers, the result is a tenth of the share of
    pixels that differ; of other values, the largest difference relative to `comparison.value_range`.
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
        ours, theirs = _counterparts(objects, predictions, original, limit)
        missing = 0
        for scores, matched in ((objects["scores"], ours), (predictions["scores"], theirs)):
            last = scores.min(initial=1.0) + _SAME * limit
            missing += int((np.delete(scores, matched) > last).sum())
        result["objects"] = _SHARE * missing / max(1, len(objects["scores"]))
        ours_same = theirs_same = slice(None)
        if "masks" in objects:
            equal = (objects["masks"][ours] == predictions["masks"][theirs]).all((1, 2))
            ours_same, theirs_same = ours[equal], theirs[equal]
        for key in objects.keys() - {"labels"}:
            rows = (ours_same, theirs_same) if key == "boxes" and "masks" in objects else (ours, theirs)
            result[key] = _difference(objects[key][rows[0]], predictions[key][rows[1]], types.get(key), original)
        values = {key: value for key, value in values.items() if key not in objects}
    return result | {
        key: _difference(value, predictions[key], types.get(key), original) for key, value in values.items()
    }


def _counterparts(
    expected: Mapping[str, np.ndarray], found: Mapping[str, np.ndarray], original: Size, limit: float
) -> tuple[np.ndarray, np.ndarray]:
    """The rows of equal objects in both, each (N,): of one class, with nearly equal scores and masks, or else boxes."""
    from scipy.optimize import linear_sum_assignment

    cost = np.abs(expected["scores"][:, None] - found["scores"])
    if "masks" in expected:
        masks = (one["masks"] for one in (expected, found))
        ours, theirs = (value.reshape(len(value), math.prod(value.shape[1:])).astype(np.float32) for value in masks)
        pixels = ours.sum(1)[:, None] + theirs.sum(1) - 2 * ours @ theirs.T  # that differ
        cost = np.maximum(cost, _SHARE * pixels / (original[0] * original[1]))
    elif "boxes" in expected:
        apart = np.abs(expected["boxes"][:, None] - found["boxes"]).max(-1, initial=0.0)
        cost = np.maximum(cost, apart / max(original))
    cost = np.where(expected["labels"][:, None] == found["labels"], cost, 1e3)
    rows, columns = linear_sum_assignment(np.where(cost <= _SAME * limit, cost, 1e3))
    same = cost[rows, columns] <= _SAME * limit
    return rows[same], columns[same]


def _difference(ours: np.ndarray, theirs: np.ndarray, kind: TargetType | None, original: Size) -> float:
    if ours.shape != theirs.shape:
        return float("inf")
    if ours.dtype.kind != "f":
        return _SHARE * float((ours != theirs).mean()) if ours.size else 0.0
    difference = float(np.abs(ours.astype(np.float64) - theirs).max(initial=0.0))
    span = value_range(kind, ours, original)
    return difference / span if np.isfinite(difference) else float("inf")
