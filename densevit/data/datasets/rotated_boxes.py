"""Rotated boxes as CVAT writes them: the box before its rotation, and `attributes.rotation` in degrees."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from densevit.data.datasets.coco_json import is_number

_CORNERS = np.array([[-0.5, -0.5], [0.5, -0.5], [0.5, 0.5], [-0.5, 0.5]])  # in sides, from the centre


def rotation_of(record: Mapping[str, Any]) -> float:
    """Returns the rotation of an annotation's box in degrees, clockwise about its centre; 0 if the annotation has a
    segmentation, which CVAT does not rotate."""
    attributes = record.get("attributes")
    if not isinstance(attributes, dict) or record.get("segmentation"):
        return 0.0
    degrees = attributes.get("rotation", 0.0)
    return float(degrees % 360) if is_number(degrees) else 0.0


def rotated_corners(boxes: np.ndarray, degrees: np.ndarray) -> np.ndarray:
    """Returns the corners (N, 4, 2) of rotated boxes. boxes: (N, 4) x, y, width, height. degrees: (N,), clockwise."""
    cos, sin = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
    offsets = boxes[:, None, 2:] * _CORNERS @ np.moveaxis(np.array([[cos, sin], [-sin, cos]]), -1, 0)  # (N, 4, 2)
    return np.asarray((boxes[:, None, :2] + boxes[:, None, 2:] / 2 + offsets).round(6))  # without noise at 90 degrees


def bounds_of(corners: np.ndarray) -> np.ndarray:
    """Returns the boxes (N, 4) x, y, width, height around corners (N, 4, 2)."""
    low = corners.min(axis=1)
    return np.concatenate([low, (corners.max(axis=1) - low).round(6)], axis=1)
