"""Reads the lines of YOLO's text files: one object per line, with coordinates relative to the image's sides.

Lines are `class x_center y_center width height`; or `class x1 y1 x2 y2 x3 y3 ...`, a polygon or an oriented box
(Ultralytics' documentation, "Datasets overview"); or a box followed by keypoints, `x y` or `x y visibility`. A tool may
append a confidence or a track id, which are left out. The numbers of one line do not tell a polygon from a box with
keypoints, so `form_of` reads all lines of a data set.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

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
_MOST, _MANY = 0.95, 0.8  # shares of the lines that agree with a form
_MIDDLE = 0.34  # of the sides of a box, from its centre
_VISIBILITIES = (0, 1, 2)


@dataclass(frozen=True)
class LineForm:
    """What the numbers after the class are: a box if there are four, else a polygon, or a box with keypoints.

    keypoints: their number; 0: polygons. dimensions: 2 or 3, with visibility. dropped: numbers at the end of each
    longer line, such as a confidence.
    """

    keypoints: int = 0
    dimensions: int = 2
    dropped: int = 0

    def __str__(self) -> str:
        if self.keypoints:
            return f"a box with {self.keypoints} keypoints (kpt_shape: [{self.keypoints}, {self.dimensions}])"
        return "a polygon (kpt_shape: [])"


@dataclass(frozen=True)
class YoloLine:
    """A line of a text file. where: file and line. label: the number of the class, as text."""

    where: str
    label: str
    values: np.ndarray

    @classmethod
    def of(cls, text: str, where: str) -> "YoloLine":
        """Parses a line that is not empty. Raises DataError for text that is not a number."""
        label, *parts = text.split()
        return cls(where, label, np.array([number(part, where) for part in parts]))


def form_of(lines: Sequence[YoloLine], kpt_shape: Sequence[int] | None, source: object) -> LineForm:
    """The one form of all lines of a data set.

    kpt_shape: number and dimensions of the keypoints in data.yaml, or () for none; None: not stated. Keypoints are then
    recognised if all lines have one length, and their points are inside and spread over their boxes, which are inside
    the image; polygons if their second point is near the others. Raises DataError with both readings if neither or both
    hold.
    """
    long = [line for line in lines if len(line.values) > 4]
    lengths = sorted({len(line.values) for line in long})
    if kpt_shape:
        count, dimensions = kpt_shape
        return LineForm(count, dimensions, int(4 + count * dimensions + 1 in lengths))
    all_odd = bool(lengths) and all(length % 2 for length in lengths)
    last = np.array([line.values[-1] for line in long])
    scored = all_odd and bool(((last >= 0) & (last <= 1)).all())
    if len(lengths) != 1 or kpt_shape is not None:
        return LineForm(dropped=int(scored))
    rows, length = np.stack([line.values for line in long]), lengths[0]
    are_whole = bool(((last >= 0) & (last == last.round())).all())
    if length == 5:
        if scored or are_whole:
            return LineForm(dropped=1)
        raise DataError(
            f"{long[0].where} of {source}: 5 numbers after the class, of which the last is neither a confidence nor a "
            "track id, but may be the angle of a rotated box. Fix: write the corners, class x1 y1 x2 y2 x3 y3 x4 y4."
        )
    if length == 8 and _share(_is_parallelogram, rows) >= _MOST:
        return LineForm()
    if length == 6 and are_whole and _share(lambda row: _box_fit(row, LineForm())[0], rows) >= _MOST:
        return LineForm(dropped=2)  # a confidence and a track id
    forms = [
        LineForm((length - 4 - dropped) // dimensions, dimensions, dropped)
        for dimensions in (3, 2)
        for dropped in ((0, 1) if scored else (0,))
        if (length - 4 - dropped) % dimensions == 0
    ]
    polygon_share = _share(_is_polygon, rows) if scored or length % 2 == 0 else 0.0
    box_shares = {form: np.mean([_box_fit(row, form) for row in rows], axis=0) for form in forms}
    for form, (_, is_centred) in box_shares.items():
        if is_centred >= _MOST and polygon_share < 1 - _MANY:
            return form
    fits = [shares[int(form.keypoints > 5)] for form, shares in box_shares.items()]  # many are around the centre
    if polygon_share >= _MANY and all(fit < _MOST for fit in fits):
        return LineForm(dropped=length % 2)
    readings = [f"{form}, around {_shown(long[0], form)}" for form in (LineForm(dropped=length % 2), *forms[:1])]
    raise DataError(
        f"{source}: the {len(long):,} lines of {length} numbers after the class, such as {long[0].where}, may be "
        f"{' or '.join(readings)} (x, y, w, h relative to the image). Fix: write the right kpt_shape into data.yaml."
    )


def _share(holds: Callable[[np.ndarray], bool], rows: np.ndarray) -> float:
    return float(np.mean([holds(row) for row in rows]))


def _is_polygon(row: np.ndarray) -> bool:
    """Whether a line may be a polygon: its second point is near the others, four corners are convex, and the first
    point is not in the middle of the points after the second, as the centre of a box is."""
    points = row[: len(row) // 2 * 2].reshape(-1, 2)
    if points.min() < -_MARGIN or points.max() > 1 + _MARGIN:
        return False
    rest = np.delete(points, 1, axis=0)
    low, high = rest.min(axis=0), rest.max(axis=0)
    margin = (3 if len(points) == 3 else 1) * max(high - low)
    edges = np.roll(points, -1, axis=0) - points
    turns = edges[:, 0] * np.roll(edges, -1, axis=0)[:, 1] - edges[:, 1] * np.roll(edges, -1, axis=0)[:, 0]
    is_near = bool((points[1] >= low - margin).all() and (points[1] <= high + margin).all())
    is_shaped = (turns >= 0).all() or (turns <= 0).all() or len(points) > 4
    return is_near and bool(is_shaped) and not _is_middle(points[0], points[2:])


def _is_parallelogram(row: np.ndarray) -> bool:
    """Whether four points are the corners of a rotated box."""
    corners = row.reshape(4, 2)
    return bool(np.abs(corners[0] + corners[2] - corners[1] - corners[3]).max() <= 0.02 * np.ptp(corners, axis=0).max())


def _is_middle(point: np.ndarray, points: np.ndarray) -> bool:
    """Whether a point is in the middle of the bounding box of three points or more: no point of an ellipse is."""
    low, high = points.min(axis=0), points.max(axis=0)
    return len(points) >= 3 and bool((np.abs(point - (low + high) / 2) <= _MIDDLE * (high - low)).all())


def _box_fit(row: np.ndarray, form: LineForm) -> tuple[bool, bool]:
    """Whether a line may be a box inside the image with keypoints inside, and whether these are around its centre."""
    centre, sides = row[:2], row[2:4]
    keypoints = _keypoints(row, form)
    visible = keypoints[(keypoints[:, :2] > 0).all(axis=1), :2]  # 0, 0 and -1, -1 are not labelled
    is_valid = (sides > 0).all() and (centre - sides / 2 > -0.01).all() and (centre + sides / 2 < 1.01).all()
    is_valid &= form.dimensions == 2 or np.isin(keypoints[:, 2:], _VISIBILITIES).all()
    is_inside = bool(is_valid and (np.abs(visible - centre) <= 0.6 * sides).all())
    return is_inside, is_inside and (len(visible) < 3 or _is_middle(centre, visible))


def _keypoints(row: np.ndarray, form: LineForm) -> np.ndarray:
    """The keypoints (K, 2) or (K, 3) of a line."""
    return row[4 : 4 + form.keypoints * form.dimensions].reshape(-1, form.dimensions)


def _shown(line: YoloLine, form: LineForm) -> str:
    """The box of a line, as read in a form: x, y, w, h relative to the image."""
    points = line.values[: len(line.values) // 2 * 2].reshape(-1, 2)
    x, y, w, h = (*line.values[:2] - line.values[2:4] / 2, *line.values[2:4]) if form.keypoints else bounds(points)
    return f"({x:.3g}, {y:.3g}, {w:.3g}, {h:.3g})"


def parse_line(line: YoloLine, names: tuple[str, ...], sides: tuple[int, int], form: LineForm) -> AnnotatedObject:
    """The object of a line. sides: width and height of the image."""
    where, label = line.where, number(line.label, line.where)
    if label != int(label) or not 0 <= label < len(names):
        raise DataError(
            f"{where}: the class is {line.label}; expected 0 to {len(names) - 1}, the classes of the data set."
        )
    count = len(line.values)
    values = line.values[: count - form.dropped] if count > 4 else line.values
    expected = 4 + form.keypoints * form.dimensions
    if len(values) != 4 and (len(values) != expected if form.keypoints else len(values) < 6 or len(values) % 2):
        numbers = (
            f"a class, x, y, width, height and {form.keypoints} keypoints"
            if form.keypoints
            else ("a class and x, y, width, height, or a class and 3 points or more")
        )
        raise DataError(f"{where}: {count + 1} numbers; expected {numbers}. Is the line cut?")
    coordinates = values[:4] if form.keypoints else values
    if min(coordinates) < -_MARGIN or max(coordinates) > 1 + _MARGIN:
        wrong = next(value for value in coordinates if not -_MARGIN <= value <= 1 + _MARGIN)
        text = f"{wrong:g} is not within 0 ... 1, the range of coordinates relative to the image."
        raise InvalidObjectError(where, text, "with coordinates outside of 0 ... 1")
    name, size = names[int(label)], sides[::-1]
    if len(coordinates) == 4:
        x, y, w, h = coordinates * (*sides, *sides)
        box_in_image((x - w / 2, y - h / 2, w, h), size, where)
        corners = np.array([[x - w / 2, y - h / 2], [x + w / 2, y + h / 2]])
        more = _coco_keypoints(values, form, sides) if form.keypoints and len(values) > 4 else {}
        return AnnotatedObject(name, bounds(corners.clip(0, sides)), more=more, source=where)
    points = coordinates.reshape(-1, 2).clip(0, 1) * sides
    box = box_in_image(bounds(points), size, where)
    return AnnotatedObject(name, box, [points.ravel().tolist()], area=polygon_area(points))


def _coco_keypoints(values: np.ndarray, form: LineForm, sides: tuple[int, int]) -> dict[str, object]:
    """The keys `keypoints` and `num_keypoints` of COCO's annotations. Keypoints without visibility are visible, those
    at 0 or below not labelled."""
    keypoints = _keypoints(values, form)
    labelled = (keypoints[:, :2] > 0).all(axis=1)
    visibility = np.where(labelled, keypoints[:, 2] if form.dimensions == 3 else 2, 0)
    pixels = np.where(visibility[:, None] > 0, keypoints[:, :2] * sides, 0).round(6)
    triples = zip(*pixels.T.tolist(), visibility.astype(int).tolist(), strict=True)
    return {
        "keypoints": [value for triple in triples for value in triple],
        "num_keypoints": int((visibility > 0).sum()),
    }
