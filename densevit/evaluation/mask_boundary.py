"""The boundary of a mask, for boundary IoU (Cheng et al. 2021)."""

import cv2
import numpy as np

from densevit.errors import ConfigError
from densevit.interfaces import Size

PAPER = 0.02  # of the image diagonal


def boundary_fraction(boundary: bool | float) -> float:
    """A fraction of the image diagonal from an evaluator's option `boundary`: true is the paper's 0.02, false is 0."""
    if isinstance(boundary, bool):
        return PAPER if boundary else 0.0
    if not 0 < boundary < 1:
        raise ConfigError(f"boundary is {boundary}; a fraction of the diagonal is expected, above 0 and below 1.")
    return boundary


def boundary_width(fraction: float, size: Size) -> int:
    """The distance in pixels within which a pixel belongs to the boundary: rounded, at least 1."""
    return max(1, round(fraction * float(np.hypot(*size))))


def mask_boundary(mask: np.ndarray, width: int) -> np.ndarray:
    """The pixels of a mask that erosion by a square of 2 `width` + 1 pixels removes. Background surrounds the image.

    mask: (H, W) uint8, 0 or 1. Returns (H, W) uint8.
    """
    x, y, w, h = cv2.boundingRect(mask)
    inside = np.ascontiguousarray(mask[y : y + h, x : x + w])
    boundary = np.zeros_like(mask)
    if inside.size:
        square = np.ones((2 * width + 1, 2 * width + 1), np.uint8)
        eroded = cv2.erode(inside, square, borderType=cv2.BORDER_CONSTANT, borderValue=0)
        boundary[y : y + h, x : x + w] = inside - eroded
    return boundary
