"""Polygons of masks, for tools that edit outlines."""

import cv2
import numpy as np

_TOLERANCE = 0.7  # largest distance in pixels between a polygon and the mask's outline


def polygons_of(mask: np.ndarray) -> list[list[float]]:
    """Outlines of a mask (H, W), 8 bits, along pixel edges, each as x0, y0, x1, y1, ... in pixels; holes are filled."""
    # In a mask enlarged three times, contours run through the outer thirds of border pixels.
    large = cv2.resize(np.ascontiguousarray(mask), None, fx=3, fy=3, interpolation=cv2.INTER_NEAREST)
    contours, _ = cv2.findContours(large, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    outlines = [cv2.approxPolyDP(contour, 3 * _TOLERANCE, True) for contour in contours]
    outlines = [
        outline if len(outline) > 2 else contour  # of a thin part
        for outline, contour in zip(outlines, contours, strict=True)
    ]
    return [((outline[:, 0] + 0.5) / 3).round(2).ravel().tolist() for outline in outlines]
