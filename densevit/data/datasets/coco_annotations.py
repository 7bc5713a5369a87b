"""Reads a COCO json into flat numpy arrays, which forked workers share with their parent.

As Python dicts, the annotations of a hundred thousand images take gigabytes in each worker.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from densevit.data.datasets.annotated_images import AnnotatedImages
from densevit.data.datasets.coco_json import Images, classes_of, identifiers, images_of, parse_json, section_of
from densevit.data.datasets.coco_records import CocoObjects, missing_masks
from densevit.data.datasets.coco_segmentations import Segmentations, pack, wrong_codes
from densevit.data.datasets.scan_cache import cached_scan, json_array, json_value
from densevit.errors import DataError, counted
from densevit.interfaces import Class
from densevit.registry.plugin_options import shown

LARGE_JSON = 1 << 20  # bytes; smaller files are not cached
USUAL_CROWDS = 0.05  # share of the objects; COCO has 0.012


@dataclass(frozen=True)
class Annotations(AnnotatedImages):
    """Images with boxes. ids: the annotations' ids in the file, for messages."""

    file_names: np.ndarray  # (N,) UTF-8 bytes
    sizes: np.ndarray  # (N, 2) int32, height and width; 0 if the json has none
    labelled_bits: np.ndarray  # (N, K / 8) uint8 (`labelled_bits`); (N, 0) if all classes are labelled
    boxes: np.ndarray  # (M, 4) float64, xyxy in pixels: evaluation depends on the last digits
    area: np.ndarray  # (M,) float64
    rotated: np.ndarray  # (M,) bool (`rotation_of`); `boxes` then bounds the rotated box
    segmentations: Segmentations | None  # None unless masks were requested

    per_image: ClassVar = (*AnnotatedImages.per_image, "file_names", "sizes", "labelled_bits")
    per_object: ClassVar = (*AnnotatedImages.per_object, "boxes", "area", "rotated")
    columns: ClassVar = (*per_image, "first", *per_object)

    def names(self) -> list[str]:
        """Returns the `file_name` of each image."""
        return [name.decode() for name in self.file_names.tolist()]

    def labelled_classes(self, index: int) -> list[str]:
        """Returns the names of the classes that are labelled in an image (`labelled_bits`)."""
        bits = np.unpackbits(self.labelled_bits[index])
        return [c.name for c, is_labelled in zip(self.classes, bits, strict=False) if is_labelled]

    def clipped_boxes(self) -> np.ndarray:
        """Returns the boxes clipped to their images, (M, 4) float64; an unknown side does not limit them."""
        return np.clip(self.boxes, 0, np.tile(self.limits(), 2))

    def limits(self) -> np.ndarray:
        """Returns the width and height in pixels of each object's image, (M, 2) float64; infinite if unknown."""
        sides = self.sizes[:, ::-1].astype(np.float64)
        return np.where(sides > 0, sides, np.inf)[self.images]

    def have_area(self) -> np.ndarray:
        """Returns (M,) bool: whether the part of each box inside its image has an area. Other boxes are not trained
        on."""
        clipped = self.clipped_boxes()
        return np.asarray((clipped[:, 2:] > clipped[:, :2]).all(axis=1))

    def arrays(self) -> dict[str, np.ndarray]:
        """Returns everything except `file` as plain arrays by name."""
        columns = {name: getattr(self, name) for name in self.columns}
        if self.segmentations is not None:
            columns |= {f"segmentations.{name}": value for name, value in vars(self.segmentations).items()}
        classes = [[c.name, c.file_id, c.color, c.thing] for c in self.classes]
        return columns | {"head": json_array({"classes": classes, "labelled": self.labelled})}

    @classmethod
    def from_arrays(cls, file: Path, arrays: Mapping[str, np.ndarray]) -> "Annotations":
        """Inverse of `arrays`; other names are ignored."""
        head, prefix = json_value(arrays["head"]), "segmentations."
        classes = tuple(Class(name, file_id, tuple(color), thing) for name, file_id, color, thing in head["classes"])
        parts = {name.removeprefix(prefix): arrays[name] for name in arrays if name.startswith(prefix)}
        columns: dict[str, Any] = {name: arrays[name] for name in cls.columns}
        return cls(file, classes, head["labelled"], **columns, segmentations=Segmentations(**parts) if parts else None)

    def subset(self, chosen: np.ndarray) -> "Annotations":
        subset = super().subset(chosen)
        if self.segmentations is None:
            return subset
        return replace(subset, segmentations=self.segmentations[chosen[self.images]].copied())


def read_annotations(file: Path, masks: bool = False, boxes_as_masks: bool | None = None) -> Annotations:
    """Reads and validates a COCO json. A large one is cached.

    Raises DataError with the file and the annotation for invalid json, missing keys, duplicate ids, unknown images and
    categories, boxes that are not four finite numbers and, with masks, invalid segmentations, and missing ones unless
    `boxes_as_masks` is set (`Coco`).
    """
    is_large = file.is_file() and os.path.getsize(file) > LARGE_JSON

    def read() -> dict[str, np.ndarray]:
        return annotations_of(file, parse_json(file, keep_segmentations=masks), masks, boxes_as_masks).arrays()

    arrays = cached_scan(["coco", str(file), masks, boxes_as_masks], read, lambda _: [str(file)], is_large)
    return Annotations.from_arrays(file, arrays)


def annotations_of(
    file: Path, document: Mapping[str, Any], masks: bool, boxes_as_masks: bool | None = None
) -> Annotations:
    """Converts a parsed json to annotations. file: the path of the json, for messages."""
    images, classes = images_of(file, document), classes_of(file, document)
    objects = CocoObjects(file, images, {c.file_id: i for i, c in enumerate(classes)}, masks, boxes_as_masks)
    records = section_of(file, document, "annotations")
    if masks and boxes_as_masks is None and (error := missing_masks(images, records)):
        raise error
    for position, record in enumerate(records):
        objects.add(record, position)
    return joined(images, classes, objects, labelled=document.get("annotations") is not None)


def joined(images: Images, classes: tuple[Class, ...], objects: CocoObjects, labelled: bool) -> Annotations:
    """Sorts the objects by image. Raises DataError for the first invalid run-length code."""
    segmentations = None if objects.segmentations is None else pack(objects.segmentations)
    for position, reason in ({} if segmentations is None else wrong_codes(segmentations)).items():
        raise objects.wrong_segmentation(objects.ids[position], objects.rows[position], reason)
    rows = np.array(objects.rows, np.int64)
    order = np.argsort(rows, kind="stable")
    return Annotations(
        file=images.file,
        classes=classes,
        labelled=labelled,
        image_ids=identifiers(list(images.rows)),
        file_names=np.array([name.encode() for name in images.names]),
        sizes=np.array(images.sizes, np.int32).reshape(-1, 2),
        labelled_bits=labelled_bits(images, len(classes), objects),
        first=np.concatenate([[0], np.cumsum(np.bincount(rows, minlength=len(images.names)))]).astype(np.int64),
        ids=identifiers(objects.ids)[order],
        boxes=np.array(objects.boxes, np.float64).reshape(-1, 4)[order],
        labels=np.array(objects.labels, np.int32)[order],
        area=np.array(objects.area, np.float64)[order],
        iscrowd=np.frombuffer(objects.iscrowd, bool)[order],
        rotated=np.frombuffer(objects.rotated, bool)[order],
        segmentations=None if segmentations is None else segmentations[order],
    )


def labelled_bits(images: Images, num_classes: int, objects: CocoObjects) -> np.ndarray:
    """Returns the classes whose objects are all labelled in each image, as packed bits: all classes in an image without
    LVIS' fields, and else those with objects and of `neg_category_ids`, without `not_exhaustive_category_ids` (Gupta et
    al. 2019, section 3.1), whose objects are positive, while further ones may be unlabelled.

    Returns (N, 0) if no image has the fields. Raises DataError for an unknown category.
    """
    if not any(fields != (None, None) for fields in images.verified):
        return np.zeros((len(images.names), 0), np.uint8)
    labelled = np.zeros((len(images.names), num_classes), bool)
    labelled[objects.rows, objects.labels] = True
    for row, fields, name in zip(labelled, images.verified, images.names, strict=True):
        try:
            negative, not_exhaustive = ([objects.label_of[category] for category in ids or ()] for ids in fields)
        except (KeyError, TypeError):
            raise DataError(
                f"{images.file}: image {name}: neg_category_ids or not_exhaustive_category_ids is {shown(fields)}; "
                "expected lists of ids of `categories`. Fix: correct these ids, or remove the keys."
            ) from None
        row[negative], row[not_exhaustive] = True, False
        row |= fields == (None, None)
    return np.packbits(labelled, axis=1)


def crowd_note(iscrowd: np.ndarray) -> str:
    """Returns a warning about many crowds; "" up to 5 % of the objects. iscrowd: (M,) bool."""
    crowds = int(iscrowd.sum())
    if crowds <= USUAL_CROWDS * len(iscrowd):
        return ""
    return (
        f"{crowds:,} of {counted(len(iscrowd), 'object')} have iscrowd 1: not trained on, not counted in AP (COCO's "
        "rule, for groups of objects). CVAT writes it for brush masks, densevit data convert voc for difficult "
        "objects. Fix: data.crowds=objects uses them as objects, data.crowds=ignore confirms the rule."
    )
