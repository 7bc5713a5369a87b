"""Reads and checks the sections of a COCO json: images, categories, and columns of annotations."""

import colorsys
import gc
import itertools
import json
from collections.abc import Generator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from densevit.data.datasets.examination import Problem
from densevit.data.io.file_errors import check_regular
from densevit.data.io.large_images import check_size
from densevit.data.io.prediction_tables import coco_document, is_table
from densevit.errors import DataError, has_surrogates
from densevit.interfaces import Class
from densevit.registry.options import shown

_INT64 = 2**63
_LARGEST_SIDE = 2**30
_EXPORT = (  # of VIA
    "define an attribute of regions, of the type dropdown, whose options are the classes, set it for all regions, and "
    "export the annotations in COCO's format"
)
_LONGEST_NAME = 4096  # characters of a file name or an id: arrays of text are as wide as the longest


class Images(NamedTuple):
    """The section `images`. sizes: (N, 2) int32, height and width; 0 if the json has none. left_out: the entries that
    are left out, by reason."""

    ids: list[Any]
    names: list[str]
    sizes: np.ndarray
    left_out: dict[str, list[str]]

    def rows(self) -> dict[Any, int]:
        """Returns the position of each id."""
        return dict(zip(self.ids, range(len(self.ids)), strict=True))


def images_of(file: Path, document: Mapping[str, Any]) -> Generator[Problem, None, Images]:
    """Reads ids, names and sizes of the images; yields the problems of images that it leaves out."""
    records = section_of(file, document, "images")
    names: dict[Any, str] = {}  # by id
    left_out: dict[str, list[str]] = {}
    sizes, invalid, repeated = [], [], []
    for position, record in enumerate(records):
        try:
            image_id, name, size = _image(file, record, position)
        except DataError as error:
            invalid.append(str(error))
            left_out.setdefault("with an invalid entry", []).append(str(record.get("file_name")))
            continue
        if image_id in names:
            left_out.setdefault("with the id of another", []).append(name)
            repeated.append((image_id, names[image_id], name))
            continue
        names[image_id] = name
        sizes.append(size)
    of = len(records)
    if invalid:
        yield Problem(invalid[0], "invalid entries of `images`", invalid, "Correct them in the json.", of=of)
    if repeated:
        image_id, *both = repeated[0]
        message = f"{file}: the image id {image_id!r} occurs twice, for {' and '.join(both)}; ids must differ."
        examples = [f"id {image_id!r}: {name} and {other}" for image_id, name, other in repeated]
        yield Problem(message, "duplicate image ids", examples, "Give each image a different id.", of=of)
    if not names:
        yield no_images(file)
    return Images(list(names), list(names.values()), np.array(sizes, dtype=np.int32).reshape(-1, 2), left_out)


def no_images(file: Path) -> Problem:
    """Returns the problem of a json of which no image is left."""
    return Problem(f"{file}: `images` is missing or empty; expected one entry per image with id and file_name.")


def parse_json(file: Path, keep_segmentations: bool) -> dict[str, Any]:
    """Parses a COCO json, or the objects of `densevit predict --format parquet` (see `coco_document`). Raises DataError
    unless it is a valid json of an object."""

    def slim(record: dict[str, Any]) -> dict[str, Any]:
        if record.pop("segmentation", None):
            record.pop("attributes", None)  # whose rotation is only of boxes
        return record

    if is_table(file):
        return coco_document(file, keep_segmentations)
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
    if "images" not in document and is_via(file):
        raise DataError(f"{file} is in the format of VIA (VGG Image Annotator), which is not read. Fix: {_EXPORT}.")
    return document


def is_via(file: Path) -> bool:
    """Whether a json is of VIA (VGG Image Annotator), by its first bytes."""
    if file.is_file():  # no FIFO
        with suppress(OSError), file.open("rb") as content:
            return b'"shape_attributes"' in content.read(1 << 20)
    return False


def section_of(file: Path, document: Mapping[str, Any], name: str) -> list[dict[str, Any]]:
    section = document.get(name)
    if section is None:
        return []
    if not isinstance(section, list) or not all(isinstance(record, dict) for record in section):
        raise DataError(f"{file}: `{name}` is not a list of objects, as in COCO's format.")
    return section


def required(file: Path, kind: str, record: Mapping[str, Any], position: int, key: str) -> Any:
    """Returns a value of a record.

    Raises DataError if it has none. position: the record's index in its section, for messages.
    """
    if key not in record:
        raise DataError(f"{file}: {kind} {record.get('id', f'at position {position}')} has no `{key}`.")
    return record[key]


def lookup(records: Sequence[Mapping[str, Any]], key: str, rows: Mapping[Any, int]) -> np.ndarray:
    """Returns (M,) the index to which each annotation's `key` refers, -1 if unknown. rows: the index of each id."""
    column = [record.get(key) for record in records]
    try:
        return np.array(list(map(rows.get, column, itertools.repeat(-1))), dtype=np.int64)
    except TypeError:  # a list or an object, which has no hash
        return np.array([rows.get(x, -1) if isinstance(x, int | str) else -1 for x in column], dtype=np.int64)


def unknown_reference(kind: str, record: Mapping[str, Any], rows: Mapping[Any, int]) -> str:
    """Returns the message about an annotation's `KIND_id` for which `lookup` finds no row."""
    some = ", ".join(map(repr, sorted(rows, key=str)[:10])) + (", ..." if len(rows) > 10 else "")
    return f"has {kind}_id {record.get(f'{kind}_id')!r}, and no {kind} has that id. Known: {some}."


def _image(file: Path, record: Mapping[str, Any], position: int) -> tuple[Any, str, tuple[int, int]]:
    """Returns id, file name and size of an image. Raises DataError for invalid ones."""
    image_id, name = (required(file, "image", record, position, key) for key in ("id", "file_name"))
    good = isinstance(name, str) and 0 < len(name) <= _LONGEST_NAME and "\0" not in name
    if not good or has_surrogates(name):
        raise DataError(
            f"{file}: image {shown(image_id)} has the file_name {shown(name)}; expected a path below the folder of the "
            "images."
        )
    if not is_identifier(image_id):
        raise DataError(
            f"{file}: the image {name} has the id {shown(image_id)}; expected a whole number of 64 bits, or text."
        )
    return image_id, name, _size(file, record)


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


def crowd_flag(record: Mapping[str, Any]) -> int:
    """Returns 0 or 1, whether an annotation or segment is a crowd; -1 if its `iscrowd` is invalid."""
    iscrowd = record.get("iscrowd", 0)
    return int(iscrowd) if isinstance(iscrowd, int | float) and iscrowd in (0, 1) else -1


def invalid_crowd(record: Mapping[str, Any]) -> str:
    """Returns the message about an `iscrowd` for which `crowd_flag` is -1."""
    return f"annotation {record.get('id')} has iscrowd {shown(record['iscrowd'])}; expected 0 or 1."


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
        raise DataError(
            f"{file}: `categories` is missing or empty; expected one entry per class with id and name. Is it of VIA? "
            f"Then {_EXPORT}."
        )
    ids, names = (
        [required(file, "category", one, i, key) for i, one in enumerate(categories)] for key in ("id", "name")
    )
    pairs = sorted(zip(ids, names, strict=True), key=lambda pair: (str(type(pair[0])), pair[0]))
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
