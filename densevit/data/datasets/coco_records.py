"""The section `annotations` of a COCO json as columns, and the rules for its values."""

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
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
from densevit.data.datasets.coco_segmentations import Segmentations, pack, parse
from densevit.data.datasets.examination import EXAMPLES, Problem, finding_of, listed
from densevit.registry.options import shown


class Records:
    """The section `annotations`, M objects, as columns. Invalid values become the number beside their column.

    valid: (M,) bool, whether an annotation breaks none of the rules that have been checked.
    """

    def __init__(
        self, file: Path, records: Sequence[Mapping[str, Any]], images: Images, categories: Mapping[Any, int]
    ) -> None:
        self.file, self.records, self.images, self.categories = file, records, images, categories
        self.ids = [record.get("id", f"at position {i}") for i, record in enumerate(records)]
        self.image_rows = images.rows()
        self.rows = lookup(records, "image_id", self.image_rows)  # (M,), -1 if unknown
        self.labels = lookup(records, "category_id", categories)  # (M,), -1 if unknown
        self.boxes = _boxes([record.get("bbox") for record in records])  # (M, 4), NaN if invalid
        self.area = np.array([_area(record) for record in records], np.float64)  # (M,), NaN if none, -1 if invalid
        self.iscrowd = np.array([crowd_flag(record) for record in records], np.int8)  # (M,), -1 if invalid
        self.valid = np.ones(len(records), bool)

    def problems(self) -> Iterator[Problem]:
        """Yields a problem for each rule that annotations break. Each rule checks those without an earlier problem."""
        ids, records = self.ids, self.records
        yield from self._invalid(
            "id",
            np.array([not is_identifier(name) for name in ids], bool),
            "annotations with an invalid id",
            "Give each a different number.",
            lambda i: (
                f"the annotation at position {i} has the id {shown(ids[i])}; expected a whole number of 64 bits, or "
                "text."
            ),
        )
        repeated, repeated_ids = self._repeated()
        yield from self._invalid(
            "id",
            repeated,
            "duplicate annotation ids",
            "Renumber them: pycocotools uses only the last one.",
            lambda _: (
                f"duplicate annotation ids: {repeated_ids}. Expected a different id for each annotation: pycocotools "
                "uses only the last one. Fix: renumber the annotations of this file."
            ),
        )
        yield from self._invalid(
            "image_id",
            self.rows < 0,
            "annotations of unknown images",
            "Remove them, or add the images.",
            lambda i: f"annotation {ids[i]} {unknown_reference('image', records[i]['image_id'], self.image_rows)}",
        )
        yield from self._invalid(
            "category_id",
            self.labels < 0,
            "annotations of unknown categories",
            f"Correct them, or add the categories. Known: {listed(sorted(self.categories, key=str), 8)}.",
            lambda i: (
                f"annotation {ids[i]} {unknown_reference('category', records[i]['category_id'], self.categories)}"
            ),
        )
        yield from self._invalid(
            "bbox",
            np.isnan(self.boxes).any(axis=1),
            "invalid boxes",
            "Expected [x, y, width, height], four finite numbers, in pixels.",
            lambda i: (
                f"annotation {ids[i]} of image {records[i]['image_id']} has the box {shown(records[i]['bbox'])}; "
                "expected [x, y, width, height], four finite numbers."
            ),
        )
        yield from self._invalid(
            "area",
            self.area < 0,
            "invalid areas",
            "Expected 0 or more pixels, or no `area`.",
            lambda i: (
                f"annotation {records[i].get('id')} has the area {shown(records[i]['area'])}; expected 0 or more "
                "pixels."
            ),
        )
        yield from self._invalid(
            "iscrowd", self.iscrowd < 0, "invalid iscrowd", "Expected 0 or 1.", lambda i: invalid_crowd(records[i])
        )

    def segmentations(self) -> Generator[Problem, None, Segmentations]:
        """Returns the segmentations of the annotations that are valid, also by their segmentation."""
        parsed, reasons = [], {}
        valid = np.flatnonzero(self.valid).tolist()
        for i, size in zip(valid, self.images.sizes[self.rows[valid]].tolist(), strict=True):
            try:
                parsed.append(parse(self.records[i].get("segmentation"), tuple(size)))
            except ValueError as error:
                reasons[i] = f"its `segmentation` {error}"
        if reasons:
            self.valid[list(reasons)] = False
            first = next(iter(reasons))
            fix = "Expected polygons of three points or more, or run lengths (RLE) of the image's size."
            where = f"{self.file}: annotation {self.ids[first]} of image {self.records[first]['image_id']}"
            examples = [f"{self._name(i)}: {reason}" for i, reason in reasons.items()]
            yield Problem(
                f"{where}: {reasons[first]}. {fix} Without `data.masks` boxes suffice.",
                finding_of("error", "invalid segmentations", examples, fix, of=len(valid)),
            )
        return pack(parsed)

    def _invalid(
        self, key: str, wrong: np.ndarray, title: str, fix: str, message: Callable[[int], str]
    ) -> Iterator[Problem]:
        """Yields the problem of annotations with a wrong value of a key, if there are any. wrong: (M,) bool."""
        places = np.flatnonzero(wrong & self.valid).tolist()
        if not places:
            return
        self.valid[places] = False
        examples = [
            f"{self.file.name}: {self._name(i)}: {key} "
            f"{shown(self.records[i][key]) if key in self.records[i] else 'is missing'}"
            for i in places[:EXAMPLES]
        ]
        first = places[0]
        is_missing = key not in self.records[first]
        text = f"annotation {self.ids[first]} has no `{key}`." if is_missing else message(first)
        found = finding_of("error", title, examples, fix, len(places), len(self.records))
        yield Problem(f"{self.file}: {text}", found)

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
