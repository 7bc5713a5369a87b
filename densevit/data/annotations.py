"""A COCO json as flat arrays, which forked loader processes share with their parent instead of copying.

A hundred thousand pictures' annotations are gigabytes as Python dicts, and each process that touches one of these pays
for its copy. Here the json is read once, checked whole, and kept as a dozen numpy arrays.
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
from pycocotools import mask as rle

from densevit.errors import DataError
from densevit.interfaces import Class

_POLYGONS, _RLE = 1, 2


@dataclass(frozen=True)
class Annotations:
    """N pictures and M objects in the pictures' order: those of picture i are `first[i]` up to `first[i + 1]`.

    labelled: False where the file has no `annotations` at all, as with test sets. ids: the objects' own, for messages.
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
    outlines: "Outlines | None"  # where masks were asked for

    def __len__(self) -> int:
        return len(self.image_ids)

    def clipped(self, sizes: np.ndarray) -> "tuple[Annotations, np.ndarray]":
        """With boxes clipped to pictures of these (N, 2) sizes, less those without area then; and the ids of these."""
        limits = np.repeat(sizes[:, ::-1], np.diff(self.first), axis=0)  # (M, 2) width, height
        boxes = np.clip(self.boxes, 0, np.tile(limits, 2))
        solid = (boxes[:, 2:] > boxes[:, :2]).all(axis=1)
        keep = np.flatnonzero(solid)
        first = np.searchsorted(keep, self.first)
        objects = {name: getattr(self, name)[keep] for name in ("ids", "labels", "area", "iscrowd")}
        outlines = self.outlines[keep] if self.outlines else None
        kept = replace(self, sizes=sizes, boxes=boxes[keep], first=first, outlines=outlines, **objects)
        return kept, self.ids[~solid]

    def head(self, count: int) -> "Annotations":
        """The first `count` pictures alone."""
        objects = slice(0, int(self.first[min(count, len(self))]))
        cut = {name: getattr(self, name)[:count] for name in ("image_ids", "file_names", "sizes")}
        cut |= {name: getattr(self, name)[objects] for name in ("ids", "boxes", "labels", "area", "iscrowd")}
        return replace(self, first=self.first[: count + 1], outlines=self.outlines and self.outlines[objects], **cut)


@dataclass(frozen=True)
class Outlines:
    """Segmentations of M objects, polygons or RLE as `kinds` says, in one run of bytes."""

    data: np.ndarray  # uint8
    starts: np.ndarray  # (M,) int64
    lengths: np.ndarray  # (M,) int64
    kinds: np.ndarray  # (M,) uint8

    def __getitem__(self, chosen: "np.ndarray | slice") -> "Outlines":
        return Outlines(self.data, self.starts[chosen], self.lengths[chosen], self.kinds[chosen])

    def mask(self, index: int, size: tuple[int, int]) -> np.ndarray:
        """One object's mask, (H, W) uint8 of 0 and 1, in a picture of this height and width."""
        start, kind = int(self.starts[index]), self.kinds[index]
        packed = self.data[start : start + int(self.lengths[index])].tobytes()
        if kind == _RLE:
            return rle.decode({"size": list(size), "counts": packed})
        coordinates = np.frombuffer(packed, np.float64)  # how many polygons, how many numbers in each, the numbers
        count = int(coordinates[0])
        ends = 1 + count + np.cumsum(coordinates[1 : 1 + count]).astype(int)
        polygons = [part.tolist() for part in np.split(coordinates[1 + count :], ends[:-1] - 1 - count)]
        return rle.decode(rle.merge(rle.frPyObjects(polygons, *size)))


def read_annotations(file: Path, masks: bool = False) -> Annotations:
    """Reads and checks a COCO json; boxes are not clipped yet.

    Raises DataError, with the file and the annotation, for broken json, a missing key, an image id used twice, an image
    or a category that does not exist, a box that is not four finite numbers, and, with masks, a segmentation that is
    missing or wrong.
    """
    document = _parse(file, keep_segmentations=masks)
    images, categories, records = (_section(file, document, name) for name in ("images", "categories", "annotations"))
    if not images:
        raise DataError(f"{file}: `images` is missing or empty; expected one entry a picture with id and file_name.")
    if not categories:
        raise DataError(f"{file}: `categories` is missing or empty; expected one entry a class with id and name.")
    classes = _classes(file, categories)
    image_ids = _column(file, "image", images, "id")
    names = _column(file, "image", images, "file_name")
    odd = next((i for i, name in enumerate(image_ids) if not isinstance(name, int | str)), None)
    if odd is not None:
        raise DataError(f"{file}: the picture {names[odd]} has the id {image_ids[odd]!r}; expected a number or text.")
    row_of = dict(zip(image_ids, range(len(image_ids)), strict=True))
    if len(row_of) < len(image_ids):
        row = next(i for i, name in enumerate(image_ids) if row_of[name] != i)
        both = f"{names[row]} and {names[row_of[image_ids[row]]]}"
        raise DataError(f"{file}: the image id {image_ids[row]!r} stands twice, for {both}; ids must differ.")
    ids = [record.get("id", f"at position {i}") for i, record in enumerate(records)]
    rows = _lookup(file, records, ids, "image_id", row_of, "image")
    labels = _lookup(file, records, ids, "category_id", {c.file_id: i for i, c in enumerate(classes)}, "category")
    boxes = _boxes(file, records, ids)
    order = np.argsort(rows, kind="stable")
    sizes = np.array([_numbers(file, "image", image, ("height", "width")) for image in images])
    area = np.array([_numbers(file, "annotation", record, ("area",))[0] for record in records])
    area = np.where(np.isnan(area), boxes[:, 2] * boxes[:, 3], area)
    boxes[:, 2:] += boxes[:, :2]
    return Annotations(
        file=file,
        classes=classes,
        labelled=document.get("annotations") is not None,
        image_ids=_identifiers(image_ids),
        file_names=np.array([str(name).encode() for name in names]),
        sizes=np.nan_to_num(sizes).astype(np.int32),
        first=np.concatenate([[0], np.cumsum(np.bincount(rows, minlength=len(images)))]).astype(np.int64),
        ids=_identifiers(ids)[order],
        boxes=boxes[order],
        labels=labels[order].astype(np.int32),
        area=area[order],
        iscrowd=np.array([bool(record.get("iscrowd", 0)) for record in records], dtype=bool)[order],
        outlines=_outlines(file, records, ids, sizes[rows])[order] if masks else None,
    )


def color_of(index: int) -> tuple[int, int, int]:
    """A colour for the class of this index: neighbours differ in hue by the golden ratio, and in brightness."""
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
    section = document.get(name) or []
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
    """(M,) the index of what each annotation's `key` names."""
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
        boxes = np.array(column, dtype=np.float64).reshape(len(column), 4)
        wrong = np.flatnonzero(~np.isfinite(boxes).all(axis=1))
    except (TypeError, ValueError):
        wrong = np.array([i for i, box in enumerate(column) if not _is_box(box)])
    if len(wrong):
        record = records[wrong[0]]
        raise DataError(
            f"{file}: annotation {ids[wrong[0]]} of image {record['image_id']} has the box {record['bbox']}; "
            "expected [x, y, width, height], four finite numbers."
        )
    return boxes


def _is_box(box: Any) -> bool:
    return isinstance(box, list) and len(box) == 4 and all(isinstance(x, int | float) and np.isfinite(x) for x in box)


def _numbers(file: Path, kind: str, record: Mapping[str, Any], keys: tuple[str, ...]) -> tuple[float, ...]:
    """The numbers under these keys; NaN for one that is not there."""
    found = tuple(record.get(key) for key in keys)
    for key, value in zip(keys, found, strict=True):
        if value is not None and (not isinstance(value, int | float) or not np.isfinite(value)):
            raise DataError(f"{file}: {kind} {record.get('id')} has the {key} {value!r}; expected a number.")
    return tuple(np.nan if value is None else float(value) for value in found)


def _classes(file: Path, categories: Sequence[dict[str, Any]]) -> tuple[Class, ...]:
    """Classes in the order of their ids."""
    named = zip(_column(file, "category", categories, "id"), _column(file, "category", categories, "name"), strict=True)
    pairs = sorted(named, key=lambda pair: (str(type(pair[0])), pair[0]))
    for (one, name), (other, namesake) in itertools.pairwise(pairs):
        if one == other:
            raise DataError(
                f"{file}: the category id {one} stands twice, for {name!r} and {namesake!r}; ids must differ."
            )
    for file_id, name in pairs:
        if isinstance(file_id, bool) or not isinstance(file_id, int):
            raise DataError(f"{file}: category {name!r} has the id {file_id!r}; expected a whole number.")
    return tuple(Class(str(name), file_id, color_of(i)) for i, (file_id, name) in enumerate(pairs))


def _identifiers(ids: Sequence[Any]) -> np.ndarray:
    """Numbers as int64; text, or a mixture, as text of fixed width."""
    numbers = all(isinstance(name, int) for name in ids)
    return np.array(ids, dtype=np.int64) if numbers else np.array([str(name) for name in ids])


def _outlines(file: Path, records: Sequence[Mapping[str, Any]], ids: Sequence[Any], sizes: np.ndarray) -> Outlines:
    """Packs the segmentations of M annotations. sizes: (M, 2), their pictures' in the json, NaN where it has none."""
    packed, kinds = [], []
    for record, name, size in zip(records, ids, sizes.tolist(), strict=True):
        segmentation = record.get("segmentation")
        try:
            if isinstance(segmentation, dict):
                counts = segmentation["counts"]
                if list(segmentation["size"]) != size and not np.isnan(size).any():
                    raise ValueError
                if isinstance(counts, list):
                    counts = rle.frPyObjects(segmentation, *segmentation["size"])["counts"]
                packed.append(counts.encode() if isinstance(counts, str) else counts)
                kinds.append(_RLE)
            else:
                polygons = [polygon for polygon in segmentation or [] if len(polygon) >= 6]
                if not polygons:
                    raise ValueError
                numbers = np.concatenate([[len(polygons)], list(map(len, polygons)), *polygons])
                packed.append(numbers.astype(np.float64).tobytes())
                kinds.append(_POLYGONS)
        except (KeyError, TypeError, ValueError):
            raise DataError(
                f"{file}: annotation {name} of image {record['image_id']} has no usable `segmentation`; expected "
                "polygons of three points or more, or RLE of the picture's size. Without `data.masks` boxes suffice."
            ) from None
    lengths = np.array([len(part) for part in packed], dtype=np.int64)
    return Outlines(
        data=np.frombuffer(b"".join(packed), np.uint8),
        starts=np.cumsum(lengths) - lengths,
        lengths=lengths,
        kinds=np.array(kinds, dtype=np.uint8),
    )
