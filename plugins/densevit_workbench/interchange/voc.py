"""Reads Pascal VOC data sets: one xml per image, with boxes in pixels that count from 1 (VOC devkit, section 2).

Many tools write coordinates that count from 0 instead; an xmin or ymin of 0 shows it. Objects marked `difficult` become
crowds: left out in training and ignored in evaluation, as in VOC. Boxes are rotated by CVAT's attribute `rotation`, in
degrees, and in roLabelImg's `robndbox`, in radians.
"""

import math
import re
import warnings
from collections.abc import Sequence
from pathlib import Path, PurePath
from typing import Literal, NamedTuple
from xml.etree import ElementTree

import numpy as np
from pycocotools import mask as rle

from densevit.channels import Channels
from densevit.data.io.channel_files import IMAGES
from densevit.data.io.file_errors import check_regular
from densevit.data.io.folders import files_below
from densevit.data.io.label_files import read_label
from densevit.data.io.text_files import read_text
from densevit.errors import DataError, UnreadableFileError, one_line
from densevit_workbench.interchange.annotated import (
    NO_AREA,
    TO_CONVERT,
    Annotated,
    AnnotatedImage,
    AnnotatedObject,
    absolute,
    below_root,
    box_in_image,
    box_limits,
    file_inventory,
    folder_split,
    header_of,
    image_files,
    image_inventory,
    is_unread,
    number,
    object_count,
    object_inventory,
    rotated_object,
)
from densevit_workbench.interchange.faults import Faults, InvalidObjectError
from densevit_workbench.interchange.image_lookup import ImageLookup, key

_DECLARATION = re.compile(r"""^\s*<\?xml[^>]*?encoding=["']([\w.:-]+)["'][^>]*\?>""")
_LISTS = {"trainval": "train", "test": "test", "validation": "val", "valid": "val", "val": "val", "train": "train"}
_MEMBER = re.compile(r'"?(.+?)"?(\s+-?[01])?')  # a line of a list: a name, and in lists of a class a flag


class _Object(NamedTuple):
    """corners: xmin, ymin, xmax, ymax as in the file. place: its number in the file, from 1. degrees: the clockwise
    rotation about its centre. from_zero: whether it is of a tool that counts from 0, CVAT or roLabelImg."""

    name: str
    corners: tuple[float, float, float, float]
    difficult: bool
    place: int
    degrees: float = 0.0
    from_zero: bool = False


class _Document(NamedTuple):
    """An xml file. size: (h, w) of its image, 0 if unknown."""

    file: Path
    filename: str
    folder: str
    size: tuple[int, int]
    objects: list[_Object]


def read_voc(
    source: Path, faults: Faults, channels: Channels | None = None, origin: Literal[0, 1] | None = None
) -> Annotated:
    """Reads a VOCdevkit year with Annotations, JPEGImages and ImageSets/Main, several years, or folders of xml files
    and images.

    origin: the coordinate of the first pixel. 1: xmax and ymax are the last pixel of a box. 0: they are the first
    pixel behind it. None: 0 if any box begins at 0, otherwise 1.
    """
    files = files_below(source, (".xml",))
    documents = []
    for file in files:
        with faults.collecting():
            if (document := _document(file, faults)) is not None:
                documents.append(document)
    if not documents:
        faults.check(source, {})
        raise DataError(f"{source}: no xml file in Pascal VOC's format is found.")
    first = _first_pixel(documents, origin)
    lookup = ImageLookup(source, filter(_is_photo, image_files(source, channels, unread=True)))
    split_of, missing = _splits_of([document.file for document in documents], source)
    splits: dict[str, list[AnnotatedImage]] = {}
    wanted, used = [], set()
    for document in documents:
        split = split_of.get(document.file)
        if split is None:
            continue
        with faults.collecting():
            path = _image_of(document, lookup, source)
            wanted.append(path)
            faults.record_use(path, document.file)
            splits.setdefault(split, []).append(_image(document, path, first, source, faults, channels))
            used.add(document.file)
    faults.check(source, splits)
    names = sorted({one.category for images in splits.values() for image in images for one in image.objects})
    reasons = {absolute(document.file): "whose image is left out" for document in documents}
    reasons |= {absolute(document.file): "in no split" for document in documents if document.file not in split_of}
    reasons |= {absolute(file): "in a list of ImageSets/Main, but missing" for file in missing}
    others = [
        below_root(document.file, source)
        for document in documents
        if document.file not in used
        for _ in document.objects
    ]
    inventories = (
        image_inventory(source, wanted, splits, "without an xml file of a split", channels, _is_photo),
        file_inventory(
            "xml file", [*files, *missing], used, source, lambda file: reasons.get(file, "not in Pascal VOC's format")
        ),
        object_inventory("object", object_count(splits), others, source, faults),
    )
    if not names:
        raise DataError(
            f"{source}: none of {len(documents):,} xml files has an object that can be used. {inventories[-1]}."
        )
    return Annotated(tuple(names), splits, inventories=inventories)


def _is_photo(path: Path) -> bool:
    """Whether an image is none of VOC's SegmentationClass and SegmentationObject."""
    return "Segmentation" not in path.parent.name


def _splits_of(files: Sequence[Path], source: Path) -> tuple[dict[Path, str], list[Path]]:
    """Returns the split of each xml file that has one, and the xml files that lists name but that do not exist.

    A list in ImageSets/Main is of the xml files of its own year, the folder that holds both; of two lists that name a
    file, the later one in `_LISTS` counts. Other xml files are in the
    split after which a folder is named. If no file has a split, all have the split "".
    """
    lists = [file for file in files_below(source, (".txt",)) if file.parent.parts[-2:] == ("ImageSets", "Main")]
    years: dict[Path, dict[str, str]] = {file.parents[2]: {} for file in lists if file.stem in _LISTS}
    for stem, split in _LISTS.items():
        for file in lists:
            if file.stem == stem:
                lines = filter(str.strip, read_text(file).splitlines())
                years[file.parents[2]] |= dict.fromkeys(map(_member, lines), split)
    split_of: dict[Path, str] = {}
    found: set[tuple[Path, str]] = set()
    for file in files:
        year = next((folder for folder in file.parents if folder in years), None)
        if year is None:
            of_file = folder_split(file, source) or None
        else:
            parts = file.relative_to(year).with_suffix("").parts
            member = key(PurePath(*parts[1:] or parts))
            found.add((year, member))
            of_file = years[year].get(member)
        if of_file is not None:
            split_of[file] = of_file
    missing = [
        year / "Annotations" / f"{member}.xml"
        for year, members in years.items()
        for member in members
        if (year, member) not in found
    ]
    return split_of or dict.fromkeys(files, ""), missing


def _member(line: str) -> str:
    """Returns the path below Annotations, without suffix, of the xml file that a line of a list names."""
    match = _MEMBER.fullmatch(line.strip())
    name = key(line.strip() if match is None else match[1]).replace("\\", "/")
    stem, dot, suffix = name.rpartition(".")
    return stem if f"{dot}{suffix.lower()}" in (*IMAGES, ".xml") else name


def _document(file: Path, faults: Faults) -> _Document | None:
    """Reads an xml file; None if it is no annotation of an image."""
    root = _parsed(file)
    if root.tag.lower() != "annotation" and root.find("object") is None:
        return None
    height, width = (_side(root, side, file) for side in ("height", "width"))
    objects = []
    for place, element in enumerate(root.iter("object"), 1):
        with faults.collecting():
            objects.append(_object(element, place, f"{file}, object {place}"))
    filename, folder, path = ((root.findtext(name) or "").strip() for name in ("filename", "folder", "path"))
    return _Document(file, filename or path, folder, (height, width), objects)


def _parsed(file: Path) -> ElementTree.Element:
    """Returns the root of an xml file, also in encodings that only Python knows, such as gb2312."""
    check_regular(file)
    try:
        content = file.read_bytes()
    except OSError as error:
        raise DataError(f"{file} cannot be read: {error.strerror}.") from None
    try:
        return ElementTree.fromstring(content)
    except (ElementTree.ParseError, ValueError, LookupError) as error:  # ValueError: an encoding of several bytes
        reason = one_line(error)
    declared = _DECLARATION.match(content[:200].decode("latin-1"))
    if declared is not None:
        for encoding in (declared[1], "utf-8-sig"):  # some declare utf-16 and write utf-8
            try:
                return ElementTree.fromstring(re.sub(r"^\s*<\?xml[^>]*\?>", "", content.decode(encoding)))
            except (ElementTree.ParseError, ValueError, LookupError):
                continue
    raise DataError(f"{file} is not valid xml: {reason}.")


def _side(root: ElementTree.Element, side: str, file: Path) -> int:
    """Returns the height or width of an annotation, 0 if unknown."""
    text = root.findtext(f"size/{side}") or "0"
    try:
        return int(float(text))
    except (ValueError, OverflowError):
        raise DataError(f"{file}: size: {text!r} is not a number.") from None


def _object(element: ElementTree.Element, place: int, where: str) -> _Object:
    name = " ".join((element.findtext("name") or "").split())
    if not name:
        raise DataError(f"{where} has no name.")
    where, difficult = f"{where} ({name})", element.findtext("difficult") == "1"
    if (box := element.find("robndbox")) is not None:  # of roLabelImg
        cx, cy, w, h, angle = (
            number(box.findtext(key), f"{where}: robndbox: {key}") for key in ("cx", "cy", "w", "h", "angle")
        )
        corners = (cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2)
        return _Object(name, corners, difficult, place, math.degrees(angle), from_zero=True)
    sides = {side: element.findtext(f"bndbox/{side}") for side in ("xmin", "ymin", "xmax", "ymax")}
    lacking = [side for side, text in sides.items() if text is None]
    if lacking:
        raise InvalidObjectError(where, f"there is no {lacking[0]} in its bndbox.", "without a bndbox")
    x0, y0, x1, y1 = (number(text, f"{where}: {side}") for side, text in sides.items())
    if x1 < x0 or y1 < y0:
        raise InvalidObjectError(
            where, f"its box is {x0:g}, {y0:g}, {x1:g}, {y1:g}; xmax or ymax is too small.", NO_AREA
        )
    attributes = {one.findtext("name"): one.findtext("value") for one in element.iter("attribute")}
    degrees = number(attributes.get("rotation") or 0, f"{where}: rotation")  # of CVAT, also if it is 0
    return _Object(name, (x0, y0, x1, y1), difficult, place, degrees, from_zero="rotation" in attributes)


def _first_pixel(documents: Sequence[_Document], origin: Literal[0, 1] | None) -> Literal[0, 1]:
    """Returns the coordinate of the first pixel, of all splits: as given, or 0 if a box begins there or has a rotation.

    Raises DataError if a box begins at 0 and the coordinates are said to count from 1.
    """
    boxes = ((document.file, one, side) for document in documents for one in document.objects for side in (0, 1))
    proof = next(
        (
            (file, one, side)
            for file, one, side in boxes
            if (one.from_zero and origin is None) or (0 <= one.corners[side] < 1 and _has_area(one))
        ),
        None,
    )
    if proof is None:
        return 1 if origin is None else origin
    file, one, side = proof
    found = "a rotation" if one.from_zero else f"the {('xmin', 'ymin')[side]} {one.corners[side]:g}"
    text = f"{file}, object {one.place} ({one.name}) has {found}"
    if origin == 1:
        raise DataError(f"{text}: coordinates count from 0, not from 1. Fix: --origin 0 (in Python: origin=0).")
    if origin is None:
        warnings.warn(
            f"{text}, so all coordinates are read as counted from 0, with xmax and ymax behind the last "
            "pixel. `data convert voc --origin 0` (in Python: origin=0) states it.",
            stacklevel=3,
        )
    return 0


def _has_area(one: _Object) -> bool:
    x0, y0, x1, y1 = one.corners
    return x1 > x0 and y1 > y0


def _image_of(document: _Document, lookup: ImageLookup, source: Path) -> Path:
    """Returns the image of an xml file: the one beside it, or the one in a folder for images, or the one that it names,
    or the only one of its name."""
    file, filename = document.file, document.filename
    path = lookup.beside(file, filename) or lookup.in_layout(file, filename, document.folder)
    path = path or lookup.named(file, filename, document.folder) or lookup.unique(file, filename)
    if path is None:
        raise UnreadableFileError(f"{file}: its image {filename or file.stem} is not found below {source}.")
    if is_unread(path):
        raise UnreadableFileError(f"{file}: its image {path} is {TO_CONVERT}.")
    return path


def _image(
    document: _Document, path: Path, first: Literal[0, 1], source: Path, faults: Faults, channels: Channels | None
) -> AnnotatedImage:
    header = header_of(path, channels)
    given = document.size
    if 0 not in given and given not in (header.upright_size, header.size):
        (height, width), (h, w) = header.upright_size, given
        raise DataError(f"{document.file} is for an image of {w} x {h} pixels; {path} has {width} x {height}.")
    size = header.upright_size if 0 in given else given
    masks = _instances(path, size, source)
    objects = []
    for one in document.objects:
        where = f"{document.file}, object {one.place} ({one.name})"
        with faults.collecting():
            mask = None if masks is None else masks == one.place
            objects.append(_annotated(one, box_limits(header, size), first, mask, where))
    return AnnotatedImage(path, *size, tuple(objects))


def _instances(path: Path, size: tuple[int, int], source: Path) -> np.ndarray | None:
    """Returns the object number of each pixel, (H, W); None if SegmentationObject, beside the images' folder, lacks the
    image."""
    folders = [folder for folder in path.parents[1:] if folder.is_relative_to(source)]
    places = ((folder, PurePath(*path.relative_to(folder).parts[1:])) for folder in folders)
    candidates = (folder / "SegmentationObject" / name.with_suffix(".png") for folder, name in places)
    file = next(filter(Path.is_file, candidates), None)
    if file is None:
        return None
    pixels = read_label(file)
    if pixels.shape != size:
        raise DataError(f"{file} has {pixels.shape} pixels (h, w); its image has {size}.")
    return pixels


def _annotated(
    one: _Object, limits: tuple[int, int], first: Literal[0, 1], mask: np.ndarray | None, where: str
) -> AnnotatedObject:
    x0, y0, x1, y1 = one.corners
    # counted from 1, the box includes the last pixel
    bbox = (x0 - first, y0 - first, x1 - x0 + first, y1 - y0 + first)
    if one.degrees % 360:
        return rotated_object(one.name, bbox, one.degrees, limits, where, one.difficult)
    bbox = box_in_image(bbox, limits, where)
    segmentation, area = None, None
    if mask is not None and mask.any():
        code = rle.encode(np.asfortranarray(mask.astype(np.uint8)))
        segmentation, area = {"size": list(code["size"]), "counts": code["counts"].decode()}, float(mask.sum())
    return AnnotatedObject(one.name, bbox, segmentation, iscrowd=one.difficult, area=area)
