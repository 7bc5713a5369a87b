"""Reads a COCO json into flat numpy arrays, which forked workers share with their parent.

As Python dicts, the annotations of a hundred thousand images take gigabytes in each worker.
"""

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
    is_identifier,
    is_number,
    lookup,
    parse_json,
    section_of,
)
from densevit.data.datasets.coco_segmentations import Segmentations, pack, parse
from densevit.data.datasets.examination import listed
from densevit.data.datasets.scan_cache import as_array, from_array
from densevit.errors import DataError
from densevit.interfaces import Class
from densevit.registry.options import shown

_COLUMNS = ("image_ids", "file_names", "sizes", "first", "ids", "boxes", "labels", "area", "iscrowd")


@dataclass(frozen=True)
class Annotations:
    """N images and M objects in the images' order: those of image i are `first[i]` up to `first[i + 1]`.

    labelled: False if the file has no `annotations`, as in test sets. ids: of the annotations, for messages.
    """

    file: Path
    classes: tuple[Class, ...]
    labelled: bool
    image_ids: np.ndarray  # (N,) int64, or text
    file_names: np.ndarray  # (N,) UTF-8 bytes
    sizes: np.ndarray  # (N, 2) int32, height and width; 0 if the json has none
    first: np.ndarray  # (N + 1,) int64
    ids: np.ndarray  # (M,) int64, or text
    boxes: np.ndarray  # (M, 4) float64, xyxy in pixels: evaluation depends on the last digits
    labels: np.ndarray  # (M,) int32, class indices
    area: np.ndarray  # (M,) float64
    iscrowd: np.ndarray  # (M,) bool
    segmentations: Segmentations | None  # None unless masks were requested

    def __len__(self) -> int:
        return len(self.image_ids)

    @property
    def images(self) -> np.ndarray:
        """(M,) index of each object's image."""
        return np.repeat(np.arange(len(self)), np.diff(self.first))

    def clipped_boxes(self) -> np.ndarray:
        """Returns the boxes clipped to their images, (M, 4) float64. All `sizes` must be known."""
        return np.clip(self.boxes, 0, np.tile(self.sizes[:, ::-1], 2)[self.images])

    def have_area(self) -> np.ndarray:
        """Whether the part of each box inside its image has an area, (M,) bool; other boxes are not trained on."""
        clipped = self.clipped_boxes()
        return np.asarray((clipped[:, 2:] > clipped[:, :2]).all(axis=1))

    def rasterised(self, sizes: np.ndarray, images: np.ndarray | None = None) -> "Annotations":
        """Converts segmentations to run-length codes. sizes: (N, 2), of the images. images: (n,) indices of the images
        whose objects are needed; None: all. Other objects get no code."""
        if self.segmentations is None:
            return replace(self, sizes=sizes)
        rows, first = None, self.first
        if images is not None:
            rows = np.concatenate([np.arange(first[i], first[i + 1]) for i in images]).tolist()
        return replace(self, sizes=sizes, segmentations=self.segmentations.rasterised(sizes[self.images], rows))

    def arrays(self) -> dict[str, np.ndarray]:
        """Returns everything except `file` as plain arrays by name."""
        columns = {name: getattr(self, name) for name in _COLUMNS}
        if self.segmentations is not None:
            columns |= {f"segmentations.{name}": value for name, value in vars(self.segmentations).items()}
        classes = [[one.name, one.file_id, one.color, one.thing] for one in self.classes]
        return columns | {"head": as_array({"classes": classes, "labelled": self.labelled})}

    @classmethod
    def of_arrays(cls, file: Path, arrays: Mapping[str, np.ndarray]) -> "Annotations":
        """Inverse of `arrays`; other names are ignored."""
        head, prefix = from_array(arrays["head"]), "segmentations."
        classes = tuple(Class(name, file_id, tuple(color), thing) for name, file_id, color, thing in head["classes"])
        parts = {name.removeprefix(prefix): arrays[name] for name in arrays if name.startswith(prefix)}
        columns = {name: arrays[name] for name in _COLUMNS}
        return cls(file, classes, head["labelled"], **columns, segmentations=Segmentations(**parts) if parts else None)

    def subset(self, chosen: np.ndarray) -> "Annotations":
        """Returns the images for which `chosen`, (N,) bool, is True."""
        objects = chosen[self.images]
        first = np.concatenate([[0], np.cumsum(np.diff(self.first)[chosen])]).astype(np.int64)
        cut = {name: getattr(self, name)[chosen] for name in ("image_ids", "file_names", "sizes")}
        cut |= {name: getattr(self, name)[objects] for name in ("ids", "boxes", "labels", "area", "iscrowd")}
        segmentations = self.segmentations[objects] if self.segmentations else None
        return replace(self, first=first, segmentations=segmentations, **cut)


def read_annotations(file: Path, masks: bool = False) -> Annotations:
    """Reads and validates a COCO json.

    Raises DataError with the file and the annotation for invalid json, missing keys, duplicate ids, unknown images and
    categories, boxes that are not four finite numbers and, with masks, missing or invalid segmentations.
    """
    return annotations_of(file, parse_json(file, keep_segmentations=masks), masks)


def annotations_of(file: Path, document: Mapping[str, Any], masks: bool) -> Annotations:
    """Converts a parsed json to annotations; see `read_annotations`. file: for messages."""
    records = section_of(file, document, "annotations")
    images, classes = images_of(file, document), classes_of(file, document)
    ids = [record.get("id", f"at position {i}") for i, record in enumerate(records)]
    wrong = next((i for i, name in enumerate(ids) if not is_identifier(name)), None)
    if wrong is not None:
        raise DataError(
            f"{file}: the annotation at position {wrong} has the id {shown(ids[wrong])}; expected a whole number of 64 "
            "bits, or text."
        )
    if len(set(ids)) < len(ids):
        raise DataError(
            f"{file}: duplicate annotation ids: {_duplicates(records, ids)}. Expected a different id for each "
            "annotation: pycocotools uses only the last one. Fix: renumber the annotations of this file."
        )
    rows = lookup(file, records, ids, "image_id", images.rows(), "image")
    labels = lookup(file, records, ids, "category_id", {c.file_id: i for i, c in enumerate(classes)}, "category")
    boxes = _boxes(file, records, ids)
    order = np.argsort(rows, kind="stable")
    area = np.array([_area(file, record) for record in records])
    area = np.where(np.isnan(area), boxes[:, 2] * boxes[:, 3], area)
    boxes[:, 2:] += boxes[:, :2]
    return Annotations(
        file=file,
        classes=classes,
        labelled=document.get("annotations") is not None,
        image_ids=identifiers(images.ids),
        file_names=np.array([name.encode() for name in images.names]),
        sizes=images.sizes,
        first=np.concatenate([[0], np.cumsum(np.bincount(rows, minlength=len(images.ids)))]).astype(np.int64),
        ids=identifiers(ids)[order],
        boxes=boxes[order],
        labels=labels[order].astype(np.int32),
        area=area[order],
        iscrowd=np.array([crowd_flag(file, record) for record in records], dtype=bool)[order],
        segmentations=_segmentations(file, records, ids, images.sizes[rows])[order] if masks else None,
    )


# ---- the parts of a json ----


def _duplicates(records: Sequence[Mapping[str, Any]], ids: Sequence[Any]) -> str:
    """Lists the ids that occur more than once, each with the images of its annotations."""
    images: dict[Any, list[str]] = {}
    for name, record in zip(ids, records, strict=True):
        images.setdefault(name, []).append(shown(record.get("image_id")))
    return listed([f"{name} (images {' and '.join(of[:3])})" for name, of in images.items() if len(of) > 1])


def _boxes(file: Path, records: Sequence[Mapping[str, Any]], ids: Sequence[Any]) -> np.ndarray:
    """Reads the boxes, (M, 4) float64, x, y, width and height."""
    column = column_of(file, "annotation", records, "bbox")
    try:
        boxes = np.array(column).reshape(len(column), 4)
        plain = boxes.dtype.kind in "iuf"  # not text or numbers beyond 64 bits
    except ValueError:
        plain = False
    wrong = np.flatnonzero(~np.isfinite(boxes).all(axis=1)) if plain else _not_boxes(column)
    if len(wrong):
        record = records[wrong[0]]
        raise DataError(
            f"{file}: annotation {ids[wrong[0]]} of image {record['image_id']} has the box {shown(record['bbox'])}; "
            "expected [x, y, width, height], four finite numbers."
        )
    return np.array(column, dtype=np.float64).reshape(len(column), 4)


def _not_boxes(column: Sequence[Any]) -> list[int]:
    return [
        i
        for i, box in enumerate(column)
        if not (isinstance(box, list) and len(box) == 4 and all(is_number(x) for x in box))
    ]


def _area(file: Path, record: Mapping[str, Any]) -> float:
    """Returns the area of an annotation; NaN if it has none."""
    area = record.get("area")
    if area is None:
        return np.nan
    if not is_number(area) or area < 0:
        raise DataError(f"{file}: annotation {record.get('id')} has the area {shown(area)}; expected 0 or more pixels.")
    return float(area)


def _segmentations(
    file: Path, records: Sequence[Mapping[str, Any]], ids: Sequence[Any], sizes: np.ndarray
) -> Segmentations:
    """Reads the segmentations of M annotations. sizes: (M, 2), of their images in the json, 0 if it has none."""
    parsed = []
    for record, name, size in zip(records, ids, sizes.tolist(), strict=True):
        try:
            parsed.append(parse(record.get("segmentation"), tuple(size)))
        except ValueError as error:
            raise DataError(
                f"{file}: annotation {name} of image {record['image_id']}: its `segmentation` {error}. Expected "
                "polygons of three points or more, or run lengths (RLE) of the image's size. Without `data.masks` "
                "boxes suffice."
            ) from None
    return pack(parsed)
