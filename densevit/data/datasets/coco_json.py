"""Reads and checks the sections of a COCO json: images, categories, and columns of annotations."""

import gc
import itertools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from densevit.data.io.file_errors import check_regular
from densevit.errors import DataError, has_surrogates, listed
from densevit.interfaces import Class, color_of
from densevit.registry.plugin_options import shown

_INT64 = 2**63
_LARGEST_SIDE = 2**30
INVALID_IMAGES = "invalid entries of `images`"
_LONGEST_NAME = 4096  # characters of a file name or an id: arrays of text are as wide as the longest


class Images:
    """The section `images`. `add` reads one entry, or raises DataError and leaves it out.

    rows: the position of each id. names: the images' files. sizes: height and width; 0 if the json has none. verified:
    LVIS' `neg_category_ids` and `not_exhaustive_category_ids`, or None.
    """

    def __init__(self, file: Path) -> None:
        self.file = file
        self.rows: dict[Any, int] = {}
        self.names: list[str] = []
        self.sizes: list[tuple[int, int]] = []
        self.verified: list[tuple[Any, Any]] = []

    def add(self, record: Mapping[str, Any], position: int) -> None:
        """Adds an image. position: the entry's index, for messages."""
        image_id, name = (required(self.file, "image", record, position, key) for key in ("id", "file_name"))
        good = isinstance(name, str) and 0 < len(name) <= _LONGEST_NAME and "\0" not in name
        if not good or has_surrogates(name):
            raise DataError(
                f"{self.file}: image {shown(image_id)} has the file_name {shown(name)}; expected a path below the "
                "folder of the images.",
                INVALID_IMAGES,
            )
        if not is_identifier(image_id):
            raise DataError(
                f"{self.file}: the image {name} has the id {shown(image_id)}; expected a whole number of 64 bits, or "
                "text.",
                INVALID_IMAGES,
            )
        if image_id in self.rows:
            other = self.names[self.rows[image_id]]
            raise DataError(
                f"{self.file}: the image id {image_id!r} occurs twice, for {other} and {name}; ids must differ.",
                "duplicate image ids",
            )
        self.sizes.append((_side(self.file, record, "height"), _side(self.file, record, "width")))
        self.verified.append((record.get("neg_category_ids"), record.get("not_exhaustive_category_ids")))
        self.names.append(name)
        self.rows[image_id] = len(self.rows)


def images_of(file: Path, document: Mapping[str, Any]) -> Images:
    """Reads the section `images`. Raises DataError for the first invalid entry, and if there is none."""
    images = Images(file)
    for position, record in enumerate(section_of(file, document, "images")):
        images.add(record, position)
    if not images.names:
        raise DataError(f"{file}: `images` is missing or empty; expected one entry per image with id and file_name.")
    return images


def parse_json(file: Path, keep_segmentations: bool) -> dict[str, Any]:
    """Parses a COCO json. Raises DataError unless it is a valid json of an object."""

    def slim(record: dict[str, Any]) -> dict[str, Any]:
        if record.pop("segmentation", None):
            record.pop("attributes", None)  # a rotation, which applies to boxes only
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
        type_name = type(document).__name__
        raise DataError(f"{file} holds a {type_name}; expected COCO's object of images, annotations and categories.")
    return document


def section_of(file: Path, document: Mapping[str, Any], name: str) -> list[dict[str, Any]]:
    """Returns the records of a section; empty if it is missing. Raises DataError unless it is a list of objects."""
    section = document.get(name)
    if section is None:
        return []
    if not isinstance(section, list) or not all(isinstance(record, dict) for record in section):
        raise DataError(f"{file}: `{name}` is not a list of objects, as in COCO's format.")
    return section


def required(file: Path, noun: str, record: Mapping[str, Any], position: int, key: str) -> Any:
    """Returns the value of a key in a record. Raises DataError if the key is missing.

    noun: what the record describes, such as "image"; position: its index in the section; both for messages.
    """
    if key not in record:
        where = f"{file}: {noun} {record.get('id', f'at position {position}')}"
        raise DataError(f"{where} has no `{key}`.", INVALID_IMAGES if noun == "image" else "")
    return record[key]


def unknown_reference(noun: str, record: Mapping[str, Any], rows: Mapping[Any, int]) -> str:
    """Returns the message for an annotation whose `NOUN_id` is not in `rows`."""
    some = listed(map(repr, sorted(rows, key=str)), 10)
    return f"has {noun}_id {shown(record.get(f'{noun}_id'))}, and no {noun} has that id. Known: {some}."


def _side(file: Path, image: Mapping[str, Any], key: str) -> int:
    """Returns a side of an image; 0 if it is not in the json."""
    side = image.get(key)
    if side is None:
        return 0
    if not (is_number(side) and side == int(side) and 1 <= side < _LARGEST_SIDE):
        raise DataError(
            f"{file}: image {image['id']} has the {key} {shown(side)}; expected a whole number of pixels, or none.",
            INVALID_IMAGES,
        )
    return int(side)


def is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and -1e300 < value < 1e300


def is_identifier(name: Any) -> bool:
    if isinstance(name, str):
        return len(name) <= _LONGEST_NAME and not has_surrogates(name)
    return isinstance(name, int) and not isinstance(name, bool) and -_INT64 <= name < _INT64


def classes_of(file: Path, document: Mapping[str, Any]) -> tuple[Class, ...]:
    """Reads the section `categories`: classes in the order of their ids, without the group that Roboflow adds."""
    categories = _without_group(section_of(file, document, "categories"), section_of(file, document, "annotations"))
    if not categories:
        raise DataError(f"{file}: `categories` is missing or empty; expected one entry per class with id and name.")
    ids, names = ([required(file, "category", c, i, key) for i, c in enumerate(categories)] for key in ("id", "name"))
    pairs = sorted(zip(ids, names, strict=True), key=lambda pair: (str(type(pair[0])), pair[0]))
    for (file_id, name), (other, namesake) in itertools.pairwise(pairs):
        if file_id == other:
            raise DataError(
                f"{file}: the category id {file_id} occurs twice, for {name!r} and {namesake!r}; ids must differ."
            )
    ids_by_name: dict[str, int] = {}
    for file_id, name in pairs:
        if not is_identifier(file_id) or isinstance(file_id, str):
            raise DataError(
                f"{file}: category {name!r} has the id {shown(file_id)}; expected a whole number of 64 bits."
            )
        if not isinstance(name, str) or not name.strip() or has_surrogates(name):
            raise DataError(f"{file}: category {file_id} has the name {shown(name)}; expected text.")
        title = " ".join(name.split())
        if title in ids_by_name:
            raise DataError(
                f"{file}: the categories {ids_by_name[title]} and {file_id} are both called {title!r}; names must "
                "differ. Merge them, or remove the one without objects."
            )
        ids_by_name[title] = file_id
    return tuple(Class(title, file_id, color_of(i)) for i, (title, file_id) in enumerate(ids_by_name.items()))


def _without_group(categories: list[dict[str, Any]], annotations: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Removes category 0 of Roboflow's exports, which is the `supercategory` of all others and has no objects. Its name
    may be the name of a class."""
    groups = [c for c in categories if c.get("id") == 0 and c.get("supercategory") == "none"]
    classes = [c for c in categories if c.get("id") != 0]
    if len(groups) != 1 or not classes or any(c.get("supercategory") != groups[0].get("name") for c in classes):
        return categories
    return categories if any(annotation.get("category_id") == 0 for annotation in annotations) else classes


def identifiers(ids: Sequence[Any]) -> np.ndarray:
    """Converts integers to int64; text and mixed ids to fixed-width text."""
    numbers = all(isinstance(name, int) for name in ids)
    return np.array(ids, dtype=np.int64) if numbers else np.array([str(name) for name in ids])
