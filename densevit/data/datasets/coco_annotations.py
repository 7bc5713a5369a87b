"""Reads a COCO json into flat numpy arrays, which forked workers share with their parent.

As Python dicts, the annotations of a hundred thousand images take gigabytes in each worker.
"""

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from densevit.data.datasets.coco_json import (
    classes_of,
    identifiers,
    images_of,
    is_identifier,
    parse_json,
    section_of,
)
from densevit.data.datasets.coco_records import Records
from densevit.data.datasets.coco_segmentations import Segmentations
from densevit.data.datasets.dataset_validation import STRICT_SCAN, Scan
from densevit.data.datasets.examination import Problem
from densevit.data.datasets.scan_cache import json_array, json_value
from densevit.errors import DataError
from densevit.interfaces import Class

_COLUMNS = ("image_ids", "file_names", "sizes", "first", "ids", "boxes", "labels", "area", "iscrowd")


@dataclass(frozen=True)
class Annotations:
    """N images and M objects in the images' order: those of image i are `first[i]` up to `first[i + 1]`.

    labelled: False if the file has no `annotations`, as in test sets. ids: the annotations' ids in the file, for
    messages.
    invalid_images, invalid_objects: the names of what an examination leaves out, by reason. rotated: the ids of rotated
    boxes, see `rotation_of`; `boxes` has those around them.
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
    invalid_images: Mapping[str, Sequence[str]] = field(default_factory=dict)
    invalid_objects: Mapping[str, Sequence[str]] = field(default_factory=dict)
    rotated: Sequence[str] = ()

    def __len__(self) -> int:
        return len(self.image_ids)

    @property
    def images(self) -> np.ndarray:
        """(M,) index of each object's image."""
        return np.repeat(np.arange(len(self)), np.diff(self.first))

    def clipped_boxes(self) -> np.ndarray:
        """Returns the boxes clipped to their images, (M, 4) float64; an unknown side does not limit them."""
        return np.clip(self.boxes, 0, np.tile(self.limits(), 2))

    def limits(self) -> np.ndarray:
        """Returns (M, 2) float64 width and height of each object's image, infinite if unknown."""
        sides = self.sizes[:, ::-1].astype(np.float64)
        return np.where(sides > 0, sides, np.inf)[self.images]

    def have_area(self) -> np.ndarray:
        """Whether the part of each box inside its image has an area, (M,) bool; other boxes are not trained on."""
        clipped = self.clipped_boxes()
        return np.asarray((clipped[:, 2:] > clipped[:, :2]).all(axis=1))

    def arrays(self) -> dict[str, np.ndarray]:
        """Returns everything except `file` as plain arrays by name."""
        columns = {name: getattr(self, name) for name in _COLUMNS}
        if self.segmentations is not None:
            columns |= {f"segmentations.{name}": value for name, value in vars(self.segmentations).items()}
        classes = [[one.name, one.file_id, one.color, one.thing] for one in self.classes]
        return columns | {"head": json_array({"classes": classes, "labelled": self.labelled})}

    @classmethod
    def of_arrays(cls, file: Path, arrays: Mapping[str, np.ndarray]) -> "Annotations":
        """Inverse of `arrays`; other names are ignored."""
        head, prefix = json_value(arrays["head"]), "segmentations."
        classes = tuple(Class(name, file_id, tuple(color), thing) for name, file_id, color, thing in head["classes"])
        parts = {name.removeprefix(prefix): arrays[name] for name in arrays if name.startswith(prefix)}
        columns: dict[str, Any] = {name: arrays[name] for name in _COLUMNS}
        return cls(file, classes, head["labelled"], **columns, segmentations=Segmentations(**parts) if parts else None)

    def subset(self, chosen: np.ndarray) -> "Annotations":
        """Returns the images for which `chosen`, (N,) bool, is True."""
        objects = chosen[self.images]
        first = np.concatenate([[0], np.cumsum(np.diff(self.first)[chosen])]).astype(np.int64)
        cut = {name: getattr(self, name)[chosen] for name in ("image_ids", "file_names", "sizes")}
        cut |= {name: getattr(self, name)[objects] for name in ("ids", "boxes", "labels", "area", "iscrowd")}
        segmentations = self.segmentations[objects].copied() if self.segmentations else None
        return replace(self, first=first, segmentations=segmentations, **cut)


def read_annotations(file: Path, masks: bool = False, scan: Scan = STRICT_SCAN) -> Annotations:
    """Reads and validates a COCO json. An examination gets all problems, and annotations without them.

    Raises DataError with the file and the annotation for invalid json, missing keys, duplicate ids, unknown images and
    categories, boxes that are not four finite numbers and, with masks, missing or invalid segmentations.
    """
    return scan.read(annotations_of(file, parse_json(file, keep_segmentations=masks), masks))


def annotations_of(file: Path, document: Mapping[str, Any], masks: bool) -> Generator[Problem, None, Annotations]:
    """Converts a parsed json to annotations; yields the problems of images and annotations that it leaves out.

    file: the path of the json, for messages.
    """
    records = section_of(file, document, "annotations")
    images = yield from images_of(file, document)
    categories: dict[Any, int]
    try:
        classes = classes_of(file, document)
        categories = {c.file_id: i for i, c in enumerate(classes)}
    except DataError as error:
        yield Problem(str(error))
        ids = [one.get("id") for one in section_of(file, document, "categories")]
        classes, categories = (), {name: 0 for name in ids if name is not None and is_identifier(name)}
    table = Records(file, records, images, categories)
    yield from table.problems()
    boxes, area = table.boxes, np.where(np.isnan(table.area), table.box_area, table.area)
    boxes[:, 2:] += boxes[:, :2]
    segmentations = (yield from table.segmentations()) if masks else None
    valid = np.flatnonzero(table.valid)
    rows = table.rows[valid]
    order = np.argsort(rows, kind="stable")
    chosen = valid[order]
    return Annotations(
        file=file,
        classes=classes,
        labelled=document.get("annotations") is not None,
        image_ids=identifiers(images.ids),
        file_names=np.array([name.encode() for name in images.names]),
        sizes=images.sizes,
        first=np.concatenate([[0], np.cumsum(np.bincount(rows, minlength=len(images.ids)))]).astype(np.int64),
        ids=identifiers([table.ids[i] for i in valid.tolist()])[order],
        boxes=boxes[chosen],
        labels=table.labels[chosen].astype(np.int32),
        area=area[chosen],
        iscrowd=table.iscrowd[chosen] == 1,
        segmentations=None if segmentations is None else segmentations[order],
        invalid_images=images.left_out,
        invalid_objects=table.left_out,
        rotated=[str(table.ids[i]) for i in table.rotated.tolist() if table.valid[i]],
    )
