"""Reads a COCO panoptic json into flat numpy arrays, which forked workers share with their parent."""

import itertools
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from densevit.data.datasets.coco_json import (
    classes_of,
    column_of,
    crowd_flag,
    identifiers,
    images_of,
    lookup,
    parse_json,
    section_of,
)
from densevit.errors import DataError
from densevit.interfaces import IGNORE, LABEL_DIVISOR, Class
from densevit.registry.options import shown

_MOST_IDS = 2**24


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


def read_panoptic_annotations(file: Path) -> PanopticAnnotations:
    """Reads and validates a COCO panoptic json.

    Raises DataError with the file, the image and the segment for invalid json, missing keys, duplicate ids, unknown
    images and categories, and images without an annotation.
    """
    return panoptic_annotations_of(file, parse_json(file, keep_segmentations=True))


def panoptic_annotations_of(file: Path, document: Mapping[str, Any]) -> PanopticAnnotations:
    """Converts a parsed json to annotations; see `read_panoptic_annotations`. file: for messages."""
    images, classes = images_of(file, document), panoptic_classes_of(file, document)
    records = section_of(file, document, "annotations")
    labelled = document.get("annotations") is not None
    names = [f"of image {record.get('image_id')}" for record in records]
    rows = lookup(file, records, names, "image_id", images.rows(), "image")
    if labelled:
        _check_one_each(file, images.names, rows)
    order = np.argsort(rows, kind="stable")
    records = [records[i] for i in order]
    files = column_of(file, "annotation", records, "file_name")
    wrong = next((name for name in files if not isinstance(name, str) or not name or "\0" in name), None)
    if wrong is not None:
        raise DataError(f"{file}: an annotation has the file_name {shown(wrong)}; expected the name of a PNG.")
    found = [_segments_info(file, record) for record in records]
    segments = list(itertools.chain.from_iterable(found))
    known = {c.file_id: i for i, c in enumerate(classes)}
    ids, labels = _segments(file, records, found, known)
    areas = [segment.get("area") for segment in segments]
    return PanopticAnnotations(
        file=file,
        classes=classes,
        labelled=labelled,
        image_ids=identifiers(images.ids),
        image_names=np.array([name.encode() for name in images.names]),
        segment_files=np.array([name.encode() for name in files]),
        first=np.concatenate([[0], np.cumsum([len(one) for one in found] or [0] * len(images.ids))]).astype(np.int64),
        ids=ids,
        labels=labels,
        iscrowd=np.array([crowd_flag(file, segment) for segment in segments], bool),
        area=np.array([area if isinstance(area, int) and 0 <= area < 2**31 else -1 for area in areas], np.int64),
        boxes=np.zeros((len(segments), 4), np.int32),
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


def _check_one_each(file: Path, names: Sequence[str], rows: np.ndarray) -> None:
    count = np.bincount(rows, minlength=len(names))
    if (wrong := np.flatnonzero(count != 1)).size:
        number = count[wrong[0]] or "no"
        raise DataError(
            f"{file}: image {names[wrong[0]]} has {number} annotations; expected one, with the file_name of its PNG "
            "and its segments_info."
        )


def _segments_info(file: Path, record: Mapping[str, Any]) -> list[dict[str, Any]]:
    segments = record.get("segments_info")
    if not isinstance(segments, list) or not all(isinstance(segment, dict) for segment in segments):
        raise DataError(
            f"{file}: the annotation of image {record['image_id']} has the segments_info {shown(segments)}; expected a "
            "list of {id, category_id, iscrowd, area, bbox}."
        )
    return segments


def _segments(
    file: Path, records: Sequence[Mapping[str, Any]], found: Sequence[list[dict[str, Any]]], known: Mapping[Any, int]
) -> tuple[np.ndarray, np.ndarray]:
    """Returns (M,) int32 ids in the PNGs, and (M,) int32 labels."""
    ids, labels = [], []
    for record, segments in zip(records, found, strict=True):
        where = f"{file}: the annotation of image {record['image_id']}"
        own = []
        for segment in segments:
            number, category = segment.get("id"), segment.get("category_id")
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
            own.append(number)
            labels.append(known[category])
        if len(set(own)) < len(own):
            number = Counter(own).most_common(1)[0][0]
            raise DataError(
                f"{where} has {own.count(number)} segments of id {number}, which overlap; expected each id once in its "
                "`segments_info`. Fix: give each segment its own id and pixels, or remove all entries but one."
            )
        of_class = Counter(labels[len(labels) - len(own) :])
        if own and of_class.most_common(1)[0][1] > LABEL_DIVISOR:
            raise DataError(
                f"{where} has {of_class.most_common(1)[0][1]} segments of one category; expected at most "
                f"{LABEL_DIVISOR}."
            )
        ids += own
    return np.array(ids, np.int32), np.array(labels, np.int32)
