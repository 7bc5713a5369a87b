"""Reads Pascal VOC data sets: one xml per image, with boxes in pixels that count from 1 (VOC devkit, section 2).

Many tools write coordinates that count from 0 instead: their marks or an xmin or ymin of 0 show it. Objects marked
`difficult` become crowds: left out in training and ignored in evaluation, as in VOC. Boxes are rotated by CVAT's
attribute `rotation`, in degrees, and in roLabelImg's `robndbox`, in radians.
"""

import re
from collections.abc import Sequence
from functools import partial
from pathlib import Path, PurePath
from typing import Literal

import numpy as np
from pycocotools import mask as rle

from densevit.channels import Channels
from densevit.data.io.channel_files import IMAGES
from densevit.data.io.folders import files_below
from densevit.data.io.label_files import read_label
from densevit.data.io.text_files import read_text
from densevit.errors import DataError, UnreadableFileError, counted
from densevit_workbench.interchange.annotated import (
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
    object_count,
    object_inventory,
    rotated_object,
)
from densevit_workbench.interchange.faults import Faults
from densevit_workbench.interchange.image_lookup import ImageLookup, key
from densevit_workbench.interchange.voc_xml import VocDocument, VocObject, read_document

_LISTS = {"trainval": "train", "test": "test", "validation": "val", "valid": "val", "val": "val", "train": "train"}
_MEMBER = re.compile(r'"?(.+?)"?(\s+-?[01])?')  # a line of a list: a name, and in lists of a class a flag


def read_voc(
    source: Path, faults: Faults, channels: Channels | None = None, origin: Literal[0, 1] | None = None
) -> Annotated:
    """Reads a VOCdevkit year with Annotations, JPEGImages and ImageSets/Main, several years, or folders of xml files
    and images.

    origin: the coordinate of the first pixel. 1: xmax and ymax are a box's last pixel. 0: xmax and ymax are the first
    pixel behind the box. None: see `_first_pixels`.
    """
    files = files_below(source, (".xml",))
    documents = [read for read in faults.map(partial(read_document, faults=faults), files) if read is not None]
    if not documents:
        faults.check(source, {})
        raise DataError(f"{source}: no xml file in Pascal VOC's format is found.")
    first, origin_text = _first_pixels(documents, origin)
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
            splits.setdefault(split, []).append(_image(document, path, first[document.file], source, faults, channels))
            used.add(document.file)
    faults.check(source, splits)
    names = sorted({obj.category for images in splits.values() for image in images for obj in image.objects})
    reasons = {absolute(document.file): "whose image is left out" for document in documents}
    reasons |= {absolute(document.file): "in no split" for document in documents if document.file not in split_of}
    reasons |= {absolute(file): "in a list of ImageSets/Main, but missing" for file in missing}
    skipped = [
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
        object_inventory("object", object_count(splits), skipped, source, faults),
    )
    if not names:
        raise DataError(
            f"{source}: none of {len(documents):,} xml files has an object that can be used. {inventories[-1]}."
        )
    return Annotated(tuple(names), splits, inventories=inventories, notes=(origin_text,))


def _is_photo(path: Path) -> bool:
    """Whether an image is not in VOC's SegmentationClass or SegmentationObject."""
    return "Segmentation" not in path.parent.name


def _splits_of(files: Sequence[Path], source: Path) -> tuple[dict[Path, str], list[Path]]:
    """Returns the split of each xml file that has one, and the listed xml files that do not exist.

    A list in ImageSets/Main names xml files of the same year, the folder of both; of two lists with the same file, the
    later one in `_LISTS` counts. Without lists, a folder's name tells the split of its xml files. If no file has a
    split, all have the split "".
    """
    lists = [file for file in files_below(source, (".txt",)) if file.parent.parts[-2:] == ("ImageSets", "Main")]
    years: dict[Path, dict[str, str]] = {file.parents[2]: {} for file in lists if file.stem in _LISTS}
    for stem, split in _LISTS.items():
        for file in lists:
            if file.stem == stem:
                lines = filter(str.strip, read_text(file).splitlines())
                years[file.parents[2]] |= dict.fromkeys(map(_member, lines), split)
    split_of: dict[Path, str] = {}
    existing: set[tuple[Path, str]] = set()
    for file in files:
        year = next((folder for folder in file.parents if folder in years), None)
        if year is None:
            file_split = folder_split(file, source) or None
        else:
            parts = file.relative_to(year).with_suffix("").parts
            member = key(PurePath(*parts[1:] or parts))
            existing.add((year, member))
            file_split = years[year].get(member)
        if file_split is not None:
            split_of[file] = file_split
    missing = [
        year / "Annotations" / f"{member}.xml"
        for year, members in years.items()
        for member in members
        if (year, member) not in existing
    ]
    return split_of or dict.fromkeys(files, ""), missing


def _member(line: str) -> str:
    """The xml file named by a line of a list: its path relative to Annotations, without suffix."""
    match = _MEMBER.fullmatch(line.strip())
    name = key(line.strip() if match is None else match[1]).replace("\\", "/")
    stem, dot, suffix = name.rpartition(".")
    return stem if f"{dot}{suffix.lower()}" in (*IMAGES, ".xml") else name


def _first_pixels(
    documents: Sequence[VocDocument], origin: Literal[0, 1] | None
) -> tuple[dict[Path, Literal[0, 1]], str]:
    """The first pixel's coordinate in each file: `origin`, else that of the tool that wrote it, else 0 if a box begins
    at 0 in any file of unknown origin, else 1; and a sentence about them.

    Raises DataError if a box begins at 0 in a file that counts from 1.
    """
    zeros = [
        (document, f"object {obj.position} ({obj.name}) has the {('xmin', 'ymin')[side]} {obj.corners[side]:g}")
        for document in documents
        for obj in document.objects
        for side in (0, 1)
        if 0 <= obj.corners[side] < 1 and _has_area(obj)
    ]
    unmarked = [(document, text) for document, text in zeros if document.origin is None]
    default: Literal[0, 1] = 0 if unmarked else 1
    first, reasons = dict[Path, Literal[0, 1]](), dict[tuple[int, str], int]()
    for document in documents:
        marked, tool = (origin, "as data.voc_origin") if origin is not None else (document.origin, document.tool)
        value = default if marked is None else marked
        reason = tool or (f"as {unmarked[0][0].file}, {unmarked[0][1]}" if unmarked else "without a tool's mark")
        first[document.file] = value
        reasons[value, reason] = reasons.get((value, reason), 0) + 1
    wrong = next(((document, text) for document, text in zeros if first[document.file] == 1), None)
    if wrong is not None:
        raise DataError(
            f"{wrong[0].file}, {wrong[1]}: coordinates count from 0, not from 1. Fix: data.voc_origin=0; in data "
            "convert --origin 0 (in Python: origin=0)."
        )
    texts = [f"{origin} in {counted(count, 'file')} {reason}" for (origin, reason), count in reasons.items()]
    return first, f"coordinates of VOC count from {', '.join(texts)} (data.voc_origin=0 or 1, --origin, sets it)"


def _has_area(obj: VocObject) -> bool:
    x0, y0, x1, y1 = obj.corners
    return x1 > x0 and y1 > y0


def _image_of(document: VocDocument, lookup: ImageLookup, source: Path) -> Path:
    """The image of an xml file: next to the file, in a parallel image folder, at the path in the file, or the only
    image of this name."""
    file, filename = document.file, document.filename
    path = lookup.beside(file, filename) or lookup.in_layout(file, filename, document.folder)
    path = path or lookup.named(file, filename, document.folder) or lookup.unique(file, file.name, filename)
    if path is None:
        raise UnreadableFileError(f"{file}: its image {filename or file.stem} is not found below {source}.")
    if is_unread(path):
        raise UnreadableFileError(f"{file}: its image {path} is {TO_CONVERT}.")
    return path


def _image(
    document: VocDocument, path: Path, first: Literal[0, 1], source: Path, faults: Faults, channels: Channels | None
) -> AnnotatedImage:
    header = header_of(path, channels)
    stated_size = document.size
    if 0 not in stated_size and stated_size not in (header.upright_size, header.size):
        (height, width), (h, w) = header.upright_size, stated_size
        raise DataError(f"{document.file} is for an image of {w} x {h} pixels; {path} has {width} x {height}.")
    size = header.upright_size if 0 in stated_size else stated_size
    masks = _instances(path, size, source)
    annotated = partial(_annotated, file=document.file, limits=box_limits(header, size), first=first, masks=masks)
    return AnnotatedImage(path, *size, tuple(faults.map(annotated, document.objects)))


def _instances(path: Path, size: tuple[int, int], source: Path) -> np.ndarray | None:
    """The object number of each pixel, (H, W), from SegmentationObject next to the images' folder; None without a
    file."""
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
    obj: VocObject, file: Path, limits: tuple[int, int], first: Literal[0, 1], masks: np.ndarray | None
) -> AnnotatedObject:
    where, (x0, y0, x1, y1) = f"{file}, object {obj.position} ({obj.name})", obj.corners
    # counted from 1, xmax and ymax are inside the box
    bbox = (x0 - first, y0 - first, x1 - x0 + first, y1 - y0 + first)
    if obj.degrees % 360:
        return rotated_object(obj.name, bbox, obj.degrees, limits, where, obj.difficult)
    bbox = box_in_image(bbox, limits, where)
    segmentation, area = None, None
    if masks is not None and (mask := masks == obj.position).any():
        code = rle.encode(np.asfortranarray(mask.astype(np.uint8)))
        segmentation, area = {"size": list(code["size"]), "counts": code["counts"].decode()}, float(mask.sum())
    return AnnotatedObject(obj.name, bbox, segmentation, iscrowd=obj.difficult, area=area, source=where)
