"""The section `annotations` of a COCO json as columns, and the rules for its values."""

from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from densevit.data.datasets.coco_json import (
    Images,
    crowd_flag,
    invalid_crowd,
    is_identifier,
    is_number,
    lookup,
    unknown_reference,
)
from densevit.data.datasets.coco_segmentations import Segmentations, parse
from densevit.data.datasets.examination import EXAMPLES, Problem, listed
from densevit.data.datasets.rotated_boxes import bounds_of, rotated_corners, rotation_of
from densevit.registry.options import shown


class Records:
    """The section `annotations`, M objects, as columns. Invalid values become the number beside their column.

    boxes: those around rotated boxes. valid: (M,) bool, whether an annotation breaks none of the rules that have been
    checked. left_out: the ids of those that break one, by the title of its problem.
    """

    def __init__(
        self, file: Path, records: Sequence[Mapping[str, Any]], images: Images, categories: Mapping[Any, int]
    ) -> None:
        self.file, self.records, self.images, self.categories = file, records, images, categories
        self.ids = [record.get("id", f"at position {i}") for i, record in enumerate(records)]
        self.rows = lookup(records, "image_id", images.rows())  # (M,), -1 if unknown
        self.labels = lookup(records, "category_id", categories)  # (M,), -1 if unknown
        self.boxes = _boxes([record.get("bbox") for record in records])  # (M, 4), NaN if invalid
        self.area = np.array([_area(record) for record in records], np.float64)  # (M,), NaN if none, -1 if invalid
        self.box_area = self.boxes[:, 2] * self.boxes[:, 3]  # (M,), also of rotated boxes
        degrees = np.array([rotation_of(x) if "attributes" in x else 0 for x in records], np.float64)
        self.rotated = np.flatnonzero(degrees * (self.boxes[:, 2:] > 0).all(axis=1))  # positions
        self.corners = rotated_corners(self.boxes[self.rotated], degrees[self.rotated])  # (R, 4, 2)
        self.boxes[self.rotated] = bounds_of(self.corners)
        self.iscrowd = np.array([crowd_flag(record) for record in records], np.int8)  # (M,), -1 if invalid
        self.valid = np.ones(len(records), bool)
        self.left_out: dict[str, list[str]] = {}

    def problems(self) -> Iterator[Problem]:
        """Yields a problem for each rule that annotations break. Each rule checks those without an earlier problem."""
        ids, records = self.ids, self.records
        if wrong := self._leave_out(np.array([not is_identifier(name) for name in ids], bool)):
            i, fix, expected = wrong[0], "Give each a different number.", "expected a whole number of 64 bits, or text"
            text = f"the annotation at position {i} has the id {shown(ids[i])}; {expected}."
            yield self._problem(wrong, "id", "annotations with an invalid id", fix, text)
        repeated, repeated_ids = self._repeated()
        if wrong := self._leave_out(repeated):
            fix = "Renumber them: pycocotools uses only the last one."
            text = (
                f"duplicate annotation ids: {repeated_ids}. Expected a different id for each annotation: pycocotools "
                "uses only the last one. Fix: renumber the annotations of this file."
            )
            yield self._problem(wrong, "id", "duplicate annotation ids", fix, text)
        if wrong := self._leave_out(self.rows < 0):
            i, fix = wrong[0], "Remove them, or add the images."
            text = f"annotation {ids[i]} {unknown_reference('image', records[i], self.images.rows())}"
            yield self._problem(wrong, "image_id", "annotations of unknown images", fix, text)
        if wrong := self._leave_out(self.labels < 0):
            some = listed(sorted(self.categories, key=str), 8)
            i, fix = wrong[0], f"Correct them, or add the categories. Known: {some}."
            text = f"annotation {ids[i]} {unknown_reference('category', records[i], self.categories)}"
            yield self._problem(wrong, "category_id", "annotations of unknown categories", fix, text)
        if wrong := self._leave_out(np.isnan(self.boxes).any(axis=1)):
            i, fix = wrong[0], "Expected [x, y, width, height], four finite numbers, in pixels."
            text = (
                f"annotation {ids[i]} of image {records[i]['image_id']} has the box {shown(records[i].get('bbox'))}; "
                "expected [x, y, width, height], four finite numbers."
            )
            yield self._problem(wrong, "bbox", "invalid boxes", fix, text)
        if wrong := self._leave_out(self.area < 0):
            i, fix = wrong[0], "Expected 0 or more pixels, or no `area`."
            area = shown(records[i]["area"])
            text = f"annotation {records[i].get('id')} has the area {area}; expected 0 or more pixels."
            yield self._problem(wrong, "area", "invalid areas", fix, text)
        if wrong := self._leave_out(self.iscrowd < 0):
            text = invalid_crowd(records[wrong[0]])
            yield self._problem(wrong, "iscrowd", "invalid iscrowd", "Expected 0 or 1.", text)

    def segmentations(self) -> Generator[Problem, None, Segmentations]:
        """Returns the segmentations of the annotations that are valid, also by their segmentation."""
        valid = np.flatnonzero(self.valid).tolist()
        sizes = map(tuple, self.images.sizes[self.rows[valid]].tolist())
        polygons = dict(zip(self.rotated.tolist(), self.corners.reshape(-1, 1, 8).tolist(), strict=True))
        segmentations, wrong = parse((polygons.get(i, self.records[i].get("segmentation")) for i in valid), sizes)
        reasons = {valid[place]: f"its `segmentation` {reason}" for place, reason in wrong.items()}
        if reasons:
            self.valid[list(reasons)] = False
            self.left_out["invalid segmentations"] = [str(self.ids[i]) for i in reasons]
            first = next(iter(reasons))
            fix = "Expected polygons of three points or more, or run lengths (RLE) of the image's size."
            where = f"{self.file}: annotation {self.ids[first]} of image {self.records[first]['image_id']}"
            examples = [f"{self._name(i)}: {reason}" for i, reason in reasons.items()]
            message = f"{where}: {reasons[first]}. {fix} Without `data.masks` boxes suffice."
            yield Problem(message, "invalid segmentations", examples, fix, of=len(valid))
        return segmentations

    def _leave_out(self, wrong: np.ndarray) -> list[int]:
        """Returns the positions of valid annotations that a rule finds wrong, (M,) bool, and marks them as invalid."""
        places: list[int] = np.flatnonzero(wrong & self.valid).tolist()
        self.valid[places] = False
        return places

    def _problem(self, wrong: list[int], key: str, title: str, fix: str, text: str) -> Problem:
        """Returns the problem of annotations with a wrong value of a key. text: about the first, unless it has none."""
        self.left_out[title] = [shown(self.ids[i]) for i in wrong]
        values = [shown(self.records[i][key]) if key in self.records[i] else "is missing" for i in wrong[:EXAMPLES]]
        examples = [f"{self.file.name}: {self._name(i)}: {key} {v}" for i, v in zip(wrong, values, strict=False)]
        if key not in self.records[wrong[0]]:
            text = f"annotation {self.ids[wrong[0]]} has no `{key}`."
        return Problem(f"{self.file}: {text}", title, examples, fix, len(wrong), len(self.records))

    def _repeated(self) -> tuple[np.ndarray, str]:
        """Returns (M,) bool, whether an id occurs in an earlier annotation too, and a list of these ids as text."""
        valid = np.flatnonzero(self.valid).tolist()
        repeated = np.zeros(len(self.ids), bool)
        if len({self.ids[i] for i in valid}) == len(valid):
            return repeated, ""
        places: dict[Any, list[int]] = {}
        for i in valid:
            places.setdefault(self.ids[i], []).append(i)
        texts = []
        for name, several in places.items():
            if len(several) > 1:
                repeated[several[1:]] = True
                of_images = [shown(self.records[i].get("image_id")) for i in several[:3]]
                texts.append(f"{name} (images {' and '.join(of_images)})")
        return repeated, listed(texts)

    def _name(self, i: int) -> str:
        """Returns an annotation's id and the file of its image, or the image's id if it is unknown."""
        record, row = self.records[i], self.rows[i]
        image = shown(record.get("image_id")) if row < 0 else self.images.names[row]
        return f"annotation {shown(self.ids[i]) if 'id' in record else self.ids[i]} of image {image}"


def _boxes(column: list[Any]) -> np.ndarray:
    """Converts boxes, x, y, width and height, to (M, 4) float64; NaN unless they are four finite numbers."""
    with suppress(ValueError):  # of another length
        boxes = np.array(column).reshape(len(column), 4)
        if boxes.dtype.kind in "iuf" and np.isfinite(boxes).all():  # not text or numbers beyond 64 bits
            return boxes.astype(np.float64)
    boxes = np.full((len(column), 4), np.nan)
    for i, box in enumerate(column):
        if isinstance(box, list) and len(box) == 4 and all(map(is_number, box)):
            boxes[i] = box
    return boxes


def _area(record: Mapping[str, Any]) -> float:
    """Returns the area of an annotation; NaN if it has none, -1 if it is invalid."""
    area = record.get("area")
    if area is None:
        return np.nan
    return float(area) if is_number(area) and area >= 0 else -1.0
