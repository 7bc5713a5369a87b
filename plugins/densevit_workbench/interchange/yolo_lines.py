"""Reads the lines of YOLO's text files: one object per line, with coordinates relative to the image's sides.

Lines are `class x_center y_center width height`, or, for segmentation and oriented boxes, `class x1 y1 x2 y2 x3 y3 ...`
(Ultralytics' documentation, "Datasets overview"). If data.yaml has `kpt_shape: [K, 3]`, a box is followed by x, y
and visibility of K keypoints, or by x and y for `[K, 2]`. Predictions that are saved with `save_conf` have the
confidence as a last column, which is dropped.
"""

from typing import Any, NamedTuple

import numpy as np

from densevit.errors import DataError
from densevit_workbench.interchange.annotated import (
    AnnotatedObject,
    bounds,
    box_in_image,
    number,
    polygon_area,
)
from densevit_workbench.interchange.faults import InvalidObjectError

_MARGIN = 0.05  # share of a side by which coordinates may be outside of the image


class Keypoints(NamedTuple):
    """Format of the keypoints. names: the names of the K keypoints. columns: 3 with visibility, or 2."""

    names: tuple[str, ...]
    columns: int


def parse_line(
    parts: list[str], names: tuple[str, ...], sides: tuple[int, int], keypoints: Keypoints | None, where: str
) -> tuple[AnnotatedObject, bool]:
    """Returns the object of a line, and whether the line ends with a confidence. sides: width and height."""
    label, *values = (number(part, where) for part in parts)
    if label != int(label) or not 0 <= label < len(names):
        raise DataError(
            f"{where}: the class is {parts[0]}; expected 0 to {len(names) - 1}, the classes of the data set."
        )
    has_confidence = _has_confidence(values, keypoints)
    if has_confidence:
        values.pop()
    more: dict[str, Any] = {}
    if keypoints is not None and len(values) > 4:
        values, more = values[:4], _keypoint_values(values[4:], keypoints, sides, where)
    if len(values) != 4 and (len(values) < 6 or len(values) % 2):
        raise DataError(
            f"{where}: {len(parts)} numbers; expected a class and x, y, width, height, or a class and 3 points or more."
        )
    if min(values) < -_MARGIN or max(values) > 1 + _MARGIN:
        wrong = next(value for value in values if not -_MARGIN <= value <= 1 + _MARGIN)
        text = f"{wrong:g} is not within 0 ... 1, the range of coordinates relative to the image."
        raise InvalidObjectError(where, text, "with coordinates outside of 0 ... 1")
    name, size = names[int(label)], sides[::-1]
    if len(values) == 4:
        x, y, w, h = np.array(values) * (*sides, *sides)
        box_in_image((x - w / 2, y - h / 2, w, h), size, where)
        corners = np.array([[x - w / 2, y - h / 2], [x + w / 2, y + h / 2]])
        return AnnotatedObject(name, bounds(corners.clip(0, sides)), more=more), has_confidence
    points = np.array(values).reshape(-1, 2).clip(0, 1) * sides
    box = box_in_image(bounds(points), size, where)
    return AnnotatedObject(name, box, [points.ravel().tolist()], area=polygon_area(points)), has_confidence


def _has_confidence(values: list[float], keypoints: Keypoints | None) -> bool:
    """Whether the last number is a confidence, after a box, keypoints or a polygon's even number of values."""
    if len(values) < 5 or not 0 <= values[-1] <= 1:
        return False
    return len(values) % 2 == 1 if keypoints is None else len(values) == 5 + len(keypoints.names) * keypoints.columns


def _keypoint_values(values: list[float], keypoints: Keypoints, sides: tuple[int, int], where: str) -> dict[str, Any]:
    """Returns COCO's `keypoints`, a flat list of x, y and visibility, and `num_keypoints`.

    If the file has no visibility, a keypoint at 0, 0 is not labelled, and others are visible.
    """
    count = len(keypoints.names)
    if len(values) != count * keypoints.columns:
        raise DataError(
            f"{where}: {len(values) + 5} numbers; expected a class, a box and {count} keypoints of {keypoints.columns} "
            f"numbers, {5 + count * keypoints.columns} in all, as kpt_shape says."
        )
    points = np.array(values).reshape(count, keypoints.columns)
    visible = points[:, 2] if keypoints.columns == 3 else 2.0 * (points != 0).any(axis=1)
    if not np.isin(visible, (0, 1, 2)).all():
        raise DataError(
            f"{where}: a keypoint has the visibility {visible[~np.isin(visible, (0, 1, 2))][0]:g}; expected 0, 1 or 2."
        )
    outside = (np.abs(points[:, :2] - 0.5) > 0.5 + _MARGIN).any(axis=1) & (visible > 0)
    if outside.any():
        text = f"the keypoint {points[outside][0, :2].tolist()} is not within 0 ... 1."
        raise InvalidObjectError(where, text, "with coordinates outside of 0 ... 1")
    pixels = np.where(visible[:, None] > 0, points[:, :2] * sides, 0)
    rows = np.column_stack([pixels.round(6), visible])
    flat = [int(value) if value == int(value) else value for value in rows.ravel().tolist()]
    return {"keypoints": flat, "num_keypoints": int((visible > 0).sum())}
