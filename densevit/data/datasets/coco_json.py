"""Reads and checks the sections of a COCO json: images, categories, and columns of annotations."""

import colorsys
import gc
import itertools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from densevit.data.io.file_errors import check_regular
from densevit.data.io.large_images import check_size
from densevit.errors import DataError, has_surrogates
from densevit.interfaces import Class
from densevit.registry.options import shown

_INT64 = 2**63
_LARGEST_SIDE = 2**30
_LONGEST_NAME = 4096  # characters of a file name or an id: arrays of text are as wide as the longest


class Images(NamedTuple):
    """The section `images`. sizes: (N, 2) int32, height and width; 0 if the json has none."""

    ids: list[Any]
    names: list[str]
    sizes: np.ndarray

    def rows(self) -> dict[Any, int]:
        """Returns the position of each id."""
        return dict(zip(self.ids, range(len(self.ids)), strict=True))


def images_of(file: Path, document: Mapping[str, Any]) -> Images:
    """Reads ids, names and sizes of all images. Raises DataError for duplicate and invalid ids."""
    images = section_of(file, document, "images")
    if not images:
        raise DataError(f"{file}: `images` is missing or empty; expected one entry per image with id and file_name.")
    ids, names = column_of(file, "image", images, "id"), _file_names(file, images)
    wrong = next((i for i, name in enumerate(ids) if not is_identifier(name)), None)
    if wrong is not None:
        raise DataError(
            f"{file}: the image {names[wrong]} has the id {shown(ids[wrong])}; expected a whole number of 64 bits, or "
            "text."
        )
    found = Images(ids, names, np.array([_size(file, image) for image in images], dtype=np.int32))
    row_of = found.rows()
    if len(row_of) < len(ids):
        row = next(i for i, name in enumerate(ids) if row_of[name] != i)
        both = f"{names[row]} and {names[row_of[ids[row]]]}"
        raise DataError(f"{file}: the image id {ids[row]!r} occurs twice, for {both}; ids must differ.")
    return found


def parse_json(file: Path, keep_segmentations: bool) -> dict[str, Any]:
    """Parses a COCO json. Raises DataError unless it is a valid json of an object."""

    def slim(record: dict[str, Any]) -> dict[str, Any]:
        record.pop("segmentation", None)
        return record

    check_regular(file)
    collecting = gc.isenabled()
    gc.disable()  # millions of new dicts, none of them garbage
    try:
        document = json.loads(file.read_bytes(), object_hook=None if keep_segmentations else slim)
    except OSError as error:
        raise DataError(f"{file} cannot be read: {error.strerror}.") from None
    except RecursionError:
        raise DataError(f"{file} is nested too deeply for COCO's format.") from None
    except ValueError as error:
        raise DataError(f"{file} is not valid json: {error}.") from None
    finally:
        if collecting:
            gc.enable()
    if not isinstance(document, dict):
        found = type(document).__name__
        raise DataError(f"{file} holds a {found}; expected COCO's object of images, annotations and categories.")
    return document


def section_of(file: Path, document: Mapping[str, Any], name: str) -> list[dict[str, Any]]:
    section = document.get(name)
    if section is None:
        return []
    if not isinstance(section, list) or not all(isinstance(record, dict) for record in section):
        raise DataError(f"{file}: `{name}` is not a list of objects, as in COCO's format.")
    return section


def column_of(file: Path, kind: str, records: Sequence[Mapping[str, Any]], key: str) -> list[Any]:
    try:
        return [record[key] for record in records]
    except KeyError:
        number, record = next((i, record) for i, record in enumerate(records) if key not in record)
        raise DataError(f"{file}: {kind} {record.get('id', f'at position {number}')} has no `{key}`.") from None


def lookup(
    file: Path, records: Sequence[Mapping[str, Any]], ids: Sequence[Any], key: str, rows: Mapping[Any, int], kind: str
) -> np.ndarray:
    """Returns (M,) the index to which each annotation's `key` refers. rows: the index of each id."""
    column = column_of(file, "annotation", records, key)
    try:
        return np.array([rows[value] for value in column], dtype=np.int64)
    except (KeyError, TypeError):
        keys = set(rows)
        number = next(i for i, value in enumerate(column) if not isinstance(value, int | str) or value not in keys)
        some = ", ".join(map(repr, sorted(rows, key=str)[:10])) + (", ..." if len(rows) > 10 else "")
        raise DataError(
            f"{file}: annotation {ids[number]} has {key} {column[number]!r}, and no {kind} has that id. Known: {some}."
        ) from None


def _size(file: Path, image: Mapping[str, Any]) -> tuple[int, int]:
    """Returns height and width of an image; 0 for a side that is not in the json."""
    sides = []
    for key in ("height", "width"):
        side = image.get(key)
        if side is not None and not (is_number(side) and side == int(side) and 1 <= side < _LARGEST_SIDE):
            raise DataError(
                f"{file}: image {image['id']} has the {key} {shown(side)}; expected a whole number of pixels, or none."
            )
        sides.append(int(side or 0))
    try:
        check_size(sides[1] or 1, sides[0] or 1)
    except DataError as error:
        raise DataError(f"{file}: image {image['id']}: {error}") from None
    return sides[0], sides[1]


def crowd_flag(file: Path, record: Mapping[str, Any]) -> bool:
    iscrowd = record.get("iscrowd", 0)
    if not isinstance(iscrowd, int | float) or iscrowd not in (0, 1):
        raise DataError(f"{file}: annotation {record.get('id')} has iscrowd {shown(iscrowd)}; expected 0 or 1.")
    return bool(iscrowd)


def is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and -1e300 < value < 1e300


def is_identifier(name: Any) -> bool:
    if isinstance(name, str):
        return len(name) <= _LONGEST_NAME and not has_surrogates(name)
    return isinstance(name, int) and not isinstance(name, bool) and -_INT64 <= name < _INT64


def _file_names(file: Path, images: Sequence[Mapping[str, Any]]) -> list[str]:
    names = column_of(file, "image", images, "file_name")
    for image, name in zip(images, names, strict=True):
        good = isinstance(name, str) and 0 < len(name) <= _LONGEST_NAME and "\0" not in name
        if not good or has_surrogates(name):
            raise DataError(
                f"{file}: image {shown(image.get('id'))} has the file_name {shown(name)}; expected a path below the "
                "folder of the images."
            )
    return names


def classes_of(file: Path, document: Mapping[str, Any]) -> tuple[Class, ...]:
    """Reads the section `categories`: classes in the order of their ids, without the group that Roboflow adds."""
    categories = _without_group(section_of(file, document, "categories"), section_of(file, document, "annotations"))
    if not categories:
        raise DataError(f"{file}: `categories` is missing or empty; expected one entry per class with id and name.")
    named = zip(
        column_of(file, "category", categories, "id"), column_of(file, "category", categories, "name"), strict=True
    )
    pairs = sorted(named, key=lambda pair: (str(type(pair[0])), pair[0]))
    for (one, name), (other, namesake) in itertools.pairwise(pairs):
        if one == other:
            raise DataError(
                f"{file}: the category id {one} occurs twice, for {name!r} and {namesake!r}; ids must differ."
            )
    known: dict[str, int] = {}
    for file_id, name in pairs:
        if not is_identifier(file_id) or isinstance(file_id, str):
            raise DataError(
                f"{file}: category {name!r} has the id {shown(file_id)}; expected a whole number of 64 bits."
            )
        if not isinstance(name, str) or not name.strip() or has_surrogates(name):
            raise DataError(f"{file}: category {file_id} has the name {shown(name)}; expected text.")
        title = " ".join(name.split())
        if title in known:
            raise DataError(
                f"{file}: the categories {known[title]} and {file_id} are both called {title!r}; names must differ. "
                "Merge them, or remove the one without objects."
            )
        known[title] = file_id
    return tuple(Class(title, file_id, color_of(i)) for i, (title, file_id) in enumerate(known.items()))


def _without_group(categories: list[dict[str, Any]], annotations: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Returns the categories without number 0 of Roboflow's exports: the `supercategory` of all others, without
    objects, which may have the name of a class."""
    groups = [one for one in categories if one.get("id") == 0 and one.get("supercategory") == "none"]
    others = [one for one in categories if one.get("id") != 0]
    if len(groups) != 1 or not others or any(one.get("supercategory") != groups[0].get("name") for one in others):
        return categories
    return categories if any(one.get("category_id") == 0 for one in annotations) else others


def identifiers(ids: Sequence[Any]) -> np.ndarray:
    """Converts integers to int64; text and mixed ids to fixed-width text."""
    numbers = all(isinstance(name, int) for name in ids)
    return np.array(ids, dtype=np.int64) if numbers else np.array([str(name) for name in ids])


def color_of(index: int) -> tuple[int, int, int]:
    """Returns a colour for a class index; those of consecutive indices differ in hue, by the golden ratio, and in
    brightness."""
    red, green, blue = colorsys.hsv_to_rgb(index * 0.618034 % 1, (0.85, 0.6)[index % 2], (1.0, 0.8, 0.9)[index % 3])
    return round(red * 255), round(green * 255), round(blue * 255)
