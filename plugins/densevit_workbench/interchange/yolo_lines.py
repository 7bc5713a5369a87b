"""Reads the lines of YOLO's text files: one object per line, with coordinates relative to the image's sides.

Lines are `class x_center y_center width height`, or, for segmentation and oriented boxes, `class x1 y1 x2 y2 x3 y3 ...`
(Ultralytics' documentation, "Datasets overview"). With `kpt_shape` in data.yaml, keypoints follow a box; they are
dropped, like the confidence in the last column of predictions saved with `save_conf`.
"""

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


def parse_line(
    parts: list[str], names: tuple[str, ...], sides: tuple[int, int], has_keypoints: bool, where: str
) -> AnnotatedObject:
    """Parses the object of a line. sides: width and height. has_keypoints: whether keypoints follow a box."""
    label, *values = (number(part, where) for part in parts)
    if label != int(label) or not 0 <= label < len(names):
        raise DataError(
            f"{where}: the class is {parts[0]}; expected 0 to {len(names) - 1}, the classes of the data set."
        )
    if has_keypoints:
        values = values[:4]
    elif len(values) > 4 and len(values) % 2 and 0 <= values[-1] <= 1:
        values.pop()  # a confidence
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
        return AnnotatedObject(name, bounds(corners.clip(0, sides)))
    points = np.array(values).reshape(-1, 2).clip(0, 1) * sides
    box = box_in_image(bounds(points), size, where)
    return AnnotatedObject(name, box, [points.ravel().tolist()], area=polygon_area(points))
