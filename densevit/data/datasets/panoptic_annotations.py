"""Reads a COCO panoptic json into flat numpy arrays, which forked workers share with their parent."""

from collections import Counter
from collections.abc import Generator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from densevit.data.datasets.coco_json import (
    classes_of,
    crowd_flag,
    identifiers,
    images_of,
    invalid_crowd,
    lookup,
    no_images,
    parse_json,
    required,
    section_of,
    unknown_reference,
)
from densevit.data.datasets.dataset_validation import STRICT_SCAN, Scan
from densevit.data.datasets.examination import Problem
from densevit.errors import DataError
from densevit.interfaces import IGNORE, LABEL_DIVISOR, Class
from densevit.registry.options import shown

_MOST_IDS = 2**24

_Records = dict[int, dict[str, Any]]  # some annotations, by their position in the json


@dataclass(frozen=True)
class PanopticAnnotations:
    """N images and M segments in the images' order: those of image i are `first[i]` up to `first[i + 1]`.

    labelled: False if the file has no `annotations`, as in test sets.
    """

    file: Path
    classes: tuple[Class, ...]
    labelled: bool
    image_ids: np.ndarray  # (N,) int64, or text
    image_names: np.ndarray  # (N,) UTF-8 bytes
    segment_files: np.ndarray  # (N,) UTF-8 bytes, the PNGs
    first: np.ndarray  # (N + 1,) int64
    ids: np.ndarray  # (M,) int32, in the PNG
    labels: np.ndarray  # (M,) int32, class indices
    iscrowd: np.ndarray  # (M,) bool
    area: np.ndarray  # (M,) int64, pixels; as annotated, -1 if the json has none, until they are counted
    boxes: np.ndarray  # (M, 4) int32 xyxy; 0 until they are measured

    def __len__(self) -> int:
        return len(self.image_ids)

    def rows(self, index: int) -> slice:
        """Returns the rows of an image's segments."""
        return slice(int(self.first[index]), int(self.first[index + 1]))

    def head(self, count: int) -> "PanopticAnnotations":
        """Returns the first `count` images."""
        segments = slice(0, int(self.first[min(count, len(self))]))
        cut = {name: getattr(self, name)[:count] for name in ("image_ids", "image_names", "segment_files")}
        cut |= {name: getattr(self, name)[segments] for name in ("ids", "labels", "iscrowd", "area", "boxes")}
        return replace(self, first=self.first[: count + 1], **cut)

    def without_empty(self) -> "PanopticAnnotations":
        """Returns the annotations without empty segments."""
        keep = np.flatnonzero(self.area > 0)
        kept = {name: getattr(self, name)[keep] for name in ("ids", "labels", "iscrowd", "area", "boxes")}
        return replace(self, first=np.searchsorted(keep, self.first), **kept)


def read_panoptic_annotations(file: Path, scan: Scan = STRICT_SCAN) -> PanopticAnnotations:
    """Reads and validates a COCO panoptic json. An examination gets all problems, and images without them.

    Raises DataError with the file, the image and the segment for invalid json, missing keys, duplicate ids, unknown
    images and categories, and images without an annotation.
    """
    return scan.read(panoptic_annotations_of(file, parse_json(file, keep_segmentations=True)))


def panoptic_annotations_of(file: Path, document: Mapping[str, Any]) -> Generator[Problem, None, PanopticAnnotations]:
    """Converts a parsed json to annotations; yields the problems of images that it leaves out.

    file: the path of the json, for messages.
    """
    images = yield from images_of(file, document)
    classes = panoptic_classes_of(file, document)
    records, entries = (section_of(file, document, name) for name in ("annotations", "images"))
    labelled = document.get("annotations") is not None
    row_of = images.rows()
    rows = lookup(records, "image_id", row_of).tolist()
    left_out = {str(one.get("id")) for one in entries} - set(map(str, images.ids)) if -1 in rows else set()
    of_image: list[_Records] = [{} for _ in images.ids]
    unknown: _Records = {}
    for position, (row, record) in enumerate(zip(rows, records, strict=True)):
        if row >= 0:
            of_image[row][position] = record
        elif str(record.get("image_id")) not in left_out:
            unknown[position] = record
    if unknown:
        yield _unknown_images(file, unknown, row_of)
    known = {c.file_id: i for i, c in enumerate(classes)}
    valid, invalid = [], []
    segments: list[_Segments] = []
    for index, (name, annotations) in enumerate(zip(images.names, of_image, strict=True)):
        try:
            one = _segments(file, name, annotations, known) if labelled else _Segments("", [], [], [], [])
        except DataError as error:
            invalid.append(str(error))
            continue
        valid.append(index)
        segments.append(one)
    if invalid:
        yield Problem(invalid[0], "invalid entries", invalid, "Each message names its fix.", of=len(entries))
        if not valid:
            yield no_images(file)
    first = np.cumsum([0, *(len(one.ids) for one in segments)])

    def joined(name: str, kind: type) -> np.ndarray:
        return np.fromiter((value for one in segments for value in getattr(one, name)), kind, first[-1])

    return PanopticAnnotations(
        file=file,
        classes=classes,
        labelled=labelled,
        image_ids=identifiers([images.ids[i] for i in valid]),
        image_names=np.array([images.names[i].encode() for i in valid]),
        segment_files=np.array([one.file.encode() for one in segments]),
        first=first,
        ids=joined("ids", np.int32),
        labels=joined("labels", np.int32),
        iscrowd=joined("iscrowd", np.bool_),
        area=joined("area", np.int64),
        boxes=np.zeros((first[-1], 4), np.int32),
    )


def panoptic_ids(labels: np.ndarray) -> np.ndarray:
    """Returns the panoptic ids (K,) int32 of an image's segments: class index * 1000 + number within the class."""
    same = labels[:, None] == labels
    numbers = np.tril(same, -1).sum(axis=1)
    return (labels * LABEL_DIVISOR + numbers).astype(np.int32)


# ---- the parts of a json ----


def panoptic_classes_of(file: Path, document: Mapping[str, Any]) -> tuple[Class, ...]:
    """Returns things and stuff in the order of their ids, with the json's colours if it has any."""
    written = {one.get("id"): one for one in section_of(file, document, "categories") if isinstance(one.get("id"), int)}
    classes = []
    for one in classes_of(file, document):
        thing, color = written[one.file_id].get("isthing"), written[one.file_id].get("color")
        if thing not in (0, 1):
            raise DataError(
                f"{file}: category {one.file_id} ({one.name}) has isthing {shown(thing)}; expected 1 for things, which "
                "are counted, or 0 for stuff."
            )
        if isinstance(color, list) and len(color) == 3 and all(type(c) is int and 0 <= c <= 255 for c in color):
            one = replace(one, color=(color[0], color[1], color[2]))
        classes.append(replace(one, thing=bool(thing)))
    if len(classes) > IGNORE:
        raise DataError(f"{file} has {len(classes)} categories; expected at most {IGNORE}.")
    return tuple(classes)


def _unknown_images(file: Path, annotations: _Records, rows: Mapping[Any, int]) -> Problem:
    """Returns the problem of annotations of images that the json lacks."""
    names = dict.fromkeys(shown(record.get("image_id")) for record in annotations.values())
    examples = [f"{file.name}: the annotation of image {name}" for name in names]
    position, record = next(iter(annotations.items()))
    try:
        image_id = required(file, "annotation", record, position, "image_id")
        message = f"{file}: annotation of image {image_id} {unknown_reference('image', record, rows)}"
    except DataError as error:
        message = str(error)
    return Problem(message, "annotations of unknown images", examples, "Remove them, or add the images.")


class _Segments(NamedTuple):
    """An image's segments. file: the name of its PNG. area: pixels as annotated, -1 if the json has none."""

    file: str
    ids: list[int]
    labels: list[int]
    iscrowd: list[int]
    area: list[int]


def _segments(file: Path, image: str, annotations: _Records, known: Mapping[Any, int]) -> _Segments:
    """Reads an image's annotations, which must be one. known: the index of each category. Raises DataError."""
    if len(annotations) != 1:
        raise DataError(
            f"{file}: image {image} has {len(annotations) or 'no'} annotations; expected one, with the file_name of "
            "its PNG and its segments_info."
        )
    [(position, record)] = annotations.items()
    name = required(file, "annotation", record, position, "file_name")
    if not isinstance(name, str) or not name or "\0" in name:
        raise DataError(f"{file}: an annotation has the file_name {shown(name)}; expected the name of a PNG.")
    where = f"{file}: the annotation of image {record['image_id']}"
    segments = record.get("segments_info")
    if not isinstance(segments, list) or not all(isinstance(segment, dict) for segment in segments):
        raise DataError(
            f"{where} has the segments_info {shown(segments)}; expected a list of {{id, category_id, iscrowd, area, "
            "bbox}."
        )
    found = _Segments(name, [], [], [], [])
    for segment in segments:
        number, category, area = (segment.get(key) for key in ("id", "category_id", "area"))
        crowd = crowd_flag(segment)
        if type(number) is not int or not 0 < number < _MOST_IDS:
            raise DataError(
                f"{where} has a segment of id {shown(number)}; expected 1 to {_MOST_IDS - 1}, as a colour "
                "R + 256 G + 65536 B."
            )
        if type(category) is not int or category not in known:
            some = ", ".join(map(str, sorted(known)[:10])) + (", ..." if len(known) > 10 else "")
            raise DataError(
                f"{where}: segment {number} has the category_id {shown(category)}, which is missing from "
                f"`categories`. Known: {some}."
            )
        if crowd < 0:
            raise DataError(f"{file}: {invalid_crowd(segment)}")
        found.ids.append(number)
        found.labels.append(known[category])
        found.iscrowd.append(crowd)
        found.area.append(area if isinstance(area, int) and 0 <= area < 2**31 else -1)
    if len(set(found.ids)) < len(found.ids):
        number, count = Counter(found.ids).most_common(1)[0]
        raise DataError(
            f"{where} has {count} segments of id {number}, which overlap; expected each id once in its "
            "`segments_info`. Fix: give each segment its own id and pixels, or remove all entries but one."
        )
    most = max(Counter(found.labels).values(), default=0)
    if most > LABEL_DIVISOR:
        raise DataError(f"{where} has {most} segments of one category; expected at most {LABEL_DIVISOR}.")
    return found
