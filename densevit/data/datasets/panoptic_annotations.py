"""Reads a COCO panoptic json into flat numpy arrays, which forked workers share with their parent."""

import itertools
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np

from densevit.data.datasets.annotated_images import AnnotatedImages
from densevit.data.datasets.coco_json import (
    Images,
    classes_of,
    identifiers,
    images_of,
    is_identifier,
    parse_json,
    required,
    section_of,
    unknown_reference,
)
from densevit.errors import DataError
from densevit.interfaces import IGNORE, LABEL_DIVISOR, Class
from densevit.registry.plugin_options import shown

_MOST_IDS = 2**24
_EXPECTED = "expected one, with the file_name of its PNG and its segments_info."


@dataclass(frozen=True)
class PanopticAnnotations(AnnotatedImages):
    """Images with segments. ids: the segments' ids in the PNG, int32."""

    image_names: np.ndarray  # (N,) UTF-8 bytes
    segment_files: np.ndarray  # (N,) UTF-8 bytes, the PNGs

    per_image: ClassVar = (*AnnotatedImages.per_image, "image_names", "segment_files")


def read_panoptic_annotations(file: Path) -> PanopticAnnotations:
    """Reads and validates a COCO panoptic json.

    Raises DataError with the file, the image and the segment for invalid json, missing keys, duplicate ids, unknown
    images and categories, and images without an annotation.
    """
    document = parse_json(file, keep_segmentations=True)
    images, classes = images_of(file, document), panoptic_classes_of(file, document)
    label_of = {c.file_id: i for i, c in enumerate(classes)}
    segments: dict[int, SegmentsInfo] = {}  # by the image's position
    for position, record in enumerate(section_of(file, document, "annotations")):
        row, image_segments = segments_of(file, record, position, images, label_of)
        if row in segments:
            raise DataError(f"{file}: image {images.names[row]} has 2 annotations; {_EXPECTED}")
        segments[row] = image_segments
    labelled = document.get("annotations") is not None
    if labelled and (lone := [name for row, name in enumerate(images.names) if row not in segments]):
        raise DataError(f"{file}: image {lone[0]} has no annotations; {_EXPECTED}")
    in_order = [segments[row] for row in sorted(segments)] or [SegmentsInfo("", [], [], [])] * len(images.names)
    first = np.cumsum([0, *(len(image_segments.ids) for image_segments in in_order)])

    def joined(values: Iterable[Iterable[int]], dtype: type) -> np.ndarray:
        return np.fromiter(itertools.chain.from_iterable(values), dtype, first[-1])

    return PanopticAnnotations(
        file=file,
        classes=classes,
        labelled=labelled,
        image_ids=identifiers(list(images.rows)),
        image_names=np.array([name.encode() for name in images.names]),
        segment_files=np.array([image_segments.file.encode() for image_segments in in_order]),
        first=first,
        ids=joined((row.ids for row in in_order), np.int32),
        labels=joined((row.labels for row in in_order), np.int32),
        iscrowd=joined((row.iscrowd for row in in_order), np.bool_),
    )


def panoptic_ids(labels: np.ndarray) -> np.ndarray:
    """Returns the panoptic ids (N,) int32 of an image's segments: class index * 1000 + number in the class, from 0.

    labels: (N,) class indices.
    """
    same = labels[:, None] == labels
    numbers = np.tril(same, -1).sum(axis=1)
    return (labels * LABEL_DIVISOR + numbers).astype(np.int32)


# ---- the parts of a json ----


def panoptic_classes_of(file: Path, document: Mapping[str, Any]) -> tuple[Class, ...]:
    """Returns things and stuff in the order of their ids, with the json's colours if it has any."""
    records = section_of(file, document, "categories")
    written = {record["id"]: record for record in records if isinstance(record.get("id"), int)}
    classes = []
    for category in classes_of(file, document):
        thing, color = written[category.file_id].get("isthing"), written[category.file_id].get("color")
        if thing not in (0, 1):
            raise DataError(
                f"{file}: category {category.file_id} ({category.name}) has isthing {shown(thing)}; expected 1 for "
                "things, which are counted, or 0 for stuff."
            )
        if isinstance(color, list) and len(color) == 3 and all(type(c) is int and 0 <= c <= 255 for c in color):
            category = replace(category, color=(color[0], color[1], color[2]))
        classes.append(replace(category, thing=bool(thing)))
    if len(classes) > IGNORE:
        raise DataError(f"{file} has {len(classes)} categories; expected at most {IGNORE}.")
    return tuple(classes)


class SegmentsInfo(NamedTuple):
    """An image's segments. file: the name of its PNG."""

    file: str
    ids: list[int]
    labels: list[int]
    iscrowd: list[int]


def segments_of(
    file: Path, record: Mapping[str, Any], position: int, images: Images, label_of: Mapping[Any, int]
) -> tuple[int, SegmentsInfo]:
    """Reads an annotation: the position of its image, and its segments. label_of: the index of each category."""
    image_id, name = (required(file, "annotation", record, position, key) for key in ("image_id", "file_name"))
    if not is_identifier(image_id) or image_id not in images.rows:
        unknown = unknown_reference("image", record, images.rows)
        raise DataError(f"{file}: annotation of image {shown(image_id)} {unknown}", "annotations of unknown images")
    if not isinstance(name, str) or not name or "\0" in name:
        raise DataError(f"{file}: an annotation has the file_name {shown(name)}; expected the name of a PNG.")
    where = f"{file}: the annotation of image {record['image_id']}"
    segments = record.get("segments_info")
    if not isinstance(segments, list) or not all(isinstance(segment, dict) for segment in segments):
        raise DataError(
            f"{where} has the segments_info {shown(segments)}; expected a list of {{id, category_id, iscrowd, area, "
            "bbox}."
        )
    image_segments = SegmentsInfo(name, [], [], [])
    for segment in segments:
        number, category = segment.get("id"), segment.get("category_id")
        crowd = segment.get("iscrowd", 0)
        if type(number) is not int or not 0 < number < _MOST_IDS:
            raise DataError(
                f"{where} has a segment of id {shown(number)}; expected 1 to {_MOST_IDS - 1}, as a colour "
                "R + 256 G + 65536 B."
            )
        if type(category) is not int or category not in label_of:
            raise DataError(f"{where}: segment {number} {unknown_reference('category', segment, label_of)}")
        if crowd not in (0, 1):
            raise DataError(f"{where}: segment {number} has iscrowd {shown(crowd)}; expected 0 or 1.")
        image_segments.ids.append(number)
        image_segments.labels.append(label_of[category])
        image_segments.iscrowd.append(int(crowd))
    if len(set(image_segments.ids)) < len(image_segments.ids):
        number, count = Counter(image_segments.ids).most_common(1)[0]
        raise DataError(
            f"{where} has {count} segments of id {number}, which overlap; expected each id once in its "
            "`segments_info`. Fix: give each segment its own id and pixels, or remove all entries but one."
        )
    most = max(Counter(image_segments.labels).values(), default=0)
    if most > LABEL_DIVISOR:
        raise DataError(f"{where} has {most} segments of one category; expected at most {LABEL_DIVISOR}.")
    return images.rows[image_id], image_segments
