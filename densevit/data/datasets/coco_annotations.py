"""Reads a COCO json into flat numpy arrays, which forked workers share with their parent.

As Python dicts, the annotations of a hundred thousand images take gigabytes in each worker.
"""

import colorsys
import gc
import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from densevit.data.datasets.coco_segmentations import Segmentations, pack, parse
from densevit.errors import DataError
from densevit.interfaces import Class
from densevit.options import shown

_INT64 = 2**63
_LONGEST_NAME = 4096  # characters of a file name or an id: arrays of text are as wide as the longest
_LARGEST_SIDE = 2**30


@dataclass(frozen=True)
class Annotations:
    """N images and M objects in the images' order: those of image i are `first[i]` up to `first[i + 1]`.

    labelled: False where the file has no `annotations`, as test sets. ids: of the annotations, for messages.
    """

    file: Path
    classes: tuple[Class, ...]
    labelled: bool
    image_ids: np.ndarray  # (N,) int64, or text
    file_names: np.ndarray  # (N,) UTF-8 bytes
    sizes: np.ndarray  # (N, 2) int32, height and width; 0 where the json does not say
    first: np.ndarray  # (N + 1,) int64
    ids: np.ndarray  # (M,) int64, or text
    boxes: np.ndarray  # (M, 4) float64, xyxy in pixels: evaluation depends on the last digits
    labels: np.ndarray  # (M,) int32, class indices
    area: np.ndarray  # (M,) float64
    iscrowd: np.ndarray  # (M,) bool
    segmentations: Segmentations | None  # where masks were requested

    def __len__(self) -> int:
        return len(self.image_ids)

    def clipped(self, sizes: np.ndarray) -> "tuple[Annotations, np.ndarray]":
        """Clips boxes to images of these (N, 2) sizes and drops those without area. Also returns the dropped ids."""
        limits = np.repeat(sizes[:, ::-1], np.diff(self.first), axis=0)  # (M, 2) width, height
        boxes = np.clip(self.boxes, 0, np.tile(limits, 2))
        solid = (boxes[:, 2:] > boxes[:, :2]).all(axis=1)
        keep = np.flatnonzero(solid)
        first = np.searchsorted(keep, self.first)
        objects = {name: getattr(self, name)[keep] for name in ("ids", "labels", "area", "iscrowd")}
        segmentations = self.segmentations[keep] if self.segmentations else None
        kept = replace(self, sizes=sizes, boxes=boxes[keep], first=first, segmentations=segmentations, **objects)
        return kept, self.ids[~solid]

    def head(self, count: int) -> "Annotations":
        """The first `count` images."""
        objects = slice(0, int(self.first[min(count, len(self))]))
        cut = {name: getattr(self, name)[:count] for name in ("image_ids", "file_names", "sizes")}
        cut |= {name: getattr(self, name)[objects] for name in ("ids", "boxes", "labels", "area", "iscrowd")}
        segmentations = self.segmentations[objects] if self.segmentations else None
        return replace(self, first=self.first[: count + 1], segmentations=segmentations, **cut)


def read_annotations(file: Path, masks: bool = False) -> Annotations:
    """Reads and validates a COCO json. Boxes are not clipped yet.

    Raises DataError with the file and the annotation for invalid json, missing keys, duplicate ids, unknown images and
    categories, boxes that are not four finite numbers and, with masks, missing or invalid segmentations.
    """
    document = _parse(file, keep_segmentations=masks)
    images, categories, records = (_section(file, document, name) for name in ("images", "categories", "annotations"))
    if not images:
        raise DataError(f"{file}: `images` is missing or empty; expected one entry an image with id and file_name.")
    if not categories:
        raise DataError(f"{file}: `categories` is missing or empty; expected one entry a class with id and name.")
    classes = _classes(file, categories)
    image_ids = _column(file, "image", images, "id")
    names = _file_names(file, images)
    wrong = next((i for i, name in enumerate(image_ids) if not _is_identifier(name)), None)
    if wrong is not None:
        raise DataError(
            f"{file}: the image {names[wrong]} has the id {shown(image_ids[wrong])}; expected a whole number of 64 "
            "bits, or text."
        )
    row_of = dict(zip(image_ids, range(len(image_ids)), strict=True))
    if len(row_of) < len(image_ids):
        row = next(i for i, name in enumerate(image_ids) if row_of[name] != i)
        both = f"{names[row]} and {names[row_of[image_ids[row]]]}"
        raise DataError(f"{file}: the image id {image_ids[row]!r} stands twice, for {both}; ids must differ.")
    ids = [record.get("id", f"at position {i}") for i, record in enumerate(records)]
    wrong = next((i for i, name in enumerate(ids) if not _is_identifier(name)), None)
    if wrong is not None:
        raise DataError(
            f"{file}: the annotation at position {wrong} has the id {shown(ids[wrong])}; expected a whole number of 64 "
            "bits, or text."
        )
    rows = _lookup(file, records, ids, "image_id", row_of, "image")
    labels = _lookup(file, records, ids, "category_id", {c.file_id: i for i, c in enumerate(classes)}, "category")
    boxes = _boxes(file, records, ids)
    order = np.argsort(rows, kind="stable")
    sizes = np.array([_size(file, image) for image in images], dtype=np.int32)  # (N, 2)
    area = np.array([_area(file, record) for record in records])
    area = np.where(np.isnan(area), boxes[:, 2] * boxes[:, 3], area)
    boxes[:, 2:] += boxes[:, :2]
    return Annotations(
        file=file,
        classes=classes,
        labelled=document.get("annotations") is not None,
        image_ids=_identifiers(image_ids),
        file_names=np.array([name.encode() for name in names]),
        sizes=sizes,
        first=np.concatenate([[0], np.cumsum(np.bincount(rows, minlength=len(images)))]).astype(np.int64),
        ids=_identifiers(ids)[order],
        boxes=boxes[order],
        labels=labels[order].astype(np.int32),
        area=area[order],
        iscrowd=np.array([_iscrowd(file, record) for record in records], dtype=bool)[order],
        segmentations=_segmentations(file, records, ids, sizes[rows])[order] if masks else None,
    )


def color_of(index: int) -> tuple[int, int, int]:
    """A colour for a class index; consecutive ones differ in hue by the golden ratio and in brightness."""
    red, green, blue = colorsys.hsv_to_rgb(index * 0.618034 % 1, (0.85, 0.6)[index % 2], (1.0, 0.8, 0.9)[index % 3])
    return round(red * 255), round(green * 255), round(blue * 255)


# ---- the parts of a json ----


def _parse(file: Path, keep_segmentations: bool) -> dict[str, Any]:
    def slim(record: dict[str, Any]) -> dict[str, Any]:
        record.pop("segmentation", None)
        return record

    collecting = gc.isenabled()
    gc.disable()  # millions of new dicts, none of them garbage
    try:
        document = json.loads(file.read_bytes(), object_hook=None if keep_segmentations else slim)
    except OSError as error:
        raise DataError(f"{file} cannot be read: {error.strerror}.") from None
    except RecursionError:
        raise DataError(f"{file} is nested too deep for COCO's format, which has few levels.") from None
    except ValueError as error:
        raise DataError(f"{file} is no valid json: {error}.") from None
    finally:
        if collecting:
            gc.enable()
    if not isinstance(document, dict):
        found = type(document).__name__
        raise DataError(f"{file} holds a {found}; expected COCO's object of images, annotations and categories.")
    return document


def _section(file: Path, document: Mapping[str, Any], name: str) -> list[dict[str, Any]]:
    section = document.get(name)
    if section is None:
        return []
    if not isinstance(section, list) or not all(isinstance(record, dict) for record in section):
        raise DataError(f"{file}: `{name}` is no list of objects, as COCO's format has it.")
    return section


def _column(file: Path, kind: str, records: Sequence[Mapping[str, Any]], key: str) -> list[Any]:
    try:
        return [record[key] for record in records]
    except KeyError:
        number, record = next((i, record) for i, record in enumerate(records) if key not in record)
        raise DataError(f"{file}: {kind} {record.get('id', f'at position {number}')} has no `{key}`.") from None


def _lookup(
    file: Path, records: Sequence[Mapping[str, Any]], ids: Sequence[Any], key: str, known: Mapping[Any, int], kind: str
) -> np.ndarray:
    """(M,) the index to which each annotation's `key` refers."""
    column = _column(file, "annotation", records, key)
    try:
        return np.array([known[value] for value in column], dtype=np.int64)
    except (KeyError, TypeError):
        keys = set(known)
        number = next(i for i, value in enumerate(column) if not isinstance(value, int | str) or value not in keys)
        some = ", ".join(map(repr, sorted(known, key=str)[:10])) + (", ..." if len(known) > 10 else "")
        raise DataError(
            f"{file}: annotation {ids[number]} has {key} {column[number]!r}, and no {kind} has that id. Known: {some}."
        ) from None


def _boxes(file: Path, records: Sequence[Mapping[str, Any]], ids: Sequence[Any]) -> np.ndarray:
    """(M, 4) float64, x, y, width and height."""
    column = _column(file, "annotation", records, "bbox")
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
        if not (isinstance(box, list) and len(box) == 4 and all(_is_number(x) for x in box))
    ]


def _size(file: Path, image: Mapping[str, Any]) -> tuple[int, int]:
    """height and width of an image; 0 for one that the json does not give."""
    sides = []
    for key in ("height", "width"):
        side = image.get(key)
        if side is not None and not (_is_number(side) and side == int(side) and 1 <= side < _LARGEST_SIDE):
            raise DataError(
                f"{file}: image {image['id']} has the {key} {shown(side)}; expected a whole number of pixels, or none."
            )
        sides.append(int(side or 0))
    return sides[0], sides[1]


def _area(file: Path, record: Mapping[str, Any]) -> float:
    """The area of an annotation; NaN for one without."""
    area = record.get("area")
    if area is None:
        return np.nan
    if not _is_number(area) or area < 0:
        raise DataError(f"{file}: annotation {record.get('id')} has the area {shown(area)}; expected 0 or more pixels.")
    return float(area)


def _iscrowd(file: Path, record: Mapping[str, Any]) -> bool:
    iscrowd = record.get("iscrowd", 0)
    if not isinstance(iscrowd, int | float) or iscrowd not in (0, 1):
        raise DataError(f"{file}: annotation {record.get('id')} has iscrowd {shown(iscrowd)}; expected 0 or 1.")
    return bool(iscrowd)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and -1e300 < value < 1e300


def _is_identifier(name: Any) -> bool:
    if isinstance(name, str):
        return len(name) <= _LONGEST_NAME
    return isinstance(name, int) and not isinstance(name, bool) and -_INT64 <= name < _INT64


def _file_names(file: Path, images: Sequence[Mapping[str, Any]]) -> list[str]:
    names = _column(file, "image", images, "file_name")
    for image, name in zip(images, names, strict=True):
        good = isinstance(name, str) and 0 < len(name) <= _LONGEST_NAME and "\0" not in name
        if not good or any("\ud800" <= letter <= "\udfff" for letter in name):
            raise DataError(
                f"{file}: image {shown(image.get('id'))} has the file_name {shown(name)}; expected a path below the "
                "folder of the images."
            )
    return names


def _classes(file: Path, categories: Sequence[dict[str, Any]]) -> tuple[Class, ...]:
    """Classes in the order of their ids."""
    named = zip(_column(file, "category", categories, "id"), _column(file, "category", categories, "name"), strict=True)
    pairs = sorted(named, key=lambda pair: (str(type(pair[0])), pair[0]))
    for (one, name), (other, namesake) in itertools.pairwise(pairs):
        if one == other:
            raise DataError(
                f"{file}: the category id {one} stands twice, for {name!r} and {namesake!r}; ids must differ."
            )
    known: dict[str, int] = {}
    for file_id, name in pairs:
        if not _is_identifier(file_id) or isinstance(file_id, str):
            raise DataError(
                f"{file}: category {name!r} has the id {shown(file_id)}; expected a whole number of 64 bits."
            )
        if not isinstance(name, str) or not name.strip():
            raise DataError(f"{file}: category {file_id} has the name {shown(name)}; expected text.")
        title = " ".join(name.split())
        if title in known:
            raise DataError(
                f"{file}: the categories {known[title]} and {file_id} are both called {title!r}; names must differ. "
                "Merge them, or remove the one without objects."
            )
        known[title] = file_id
    return tuple(Class(title, file_id, color_of(i)) for i, (title, file_id) in enumerate(known.items()))


def _identifiers(ids: Sequence[Any]) -> np.ndarray:
    """Integers as int64; text and mixed ids as fixed-width text."""
    numbers = all(isinstance(name, int) for name in ids)
    return np.array(ids, dtype=np.int64) if numbers else np.array([str(name) for name in ids])


def _segmentations(
    file: Path, records: Sequence[Mapping[str, Any]], ids: Sequence[Any], sizes: np.ndarray
) -> Segmentations:
    """The segmentations of M annotations. sizes: (M, 2), those of their images in the json, 0 where it has none."""
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
