"""Reads Open Images (Kuznetsova et al. 2020): csv files of boxes, of verified image-level labels and of class names.

In an image, the objects of a class are boxed if a person verified that it is there, and there are none if a person
verified that; of other classes nothing is known. A box of a group of more than five objects becomes a crowd. Classes of
the hierarchy are not derived from each other.
"""

import csv
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path

from densevit.channels import Channels
from densevit.data.io.folders import files_below
from densevit.errors import DataError, counted
from densevit_workbench.interchange.annotated import (
    SPLIT_FOLDERS,
    Annotated,
    AnnotatedImage,
    AnnotatedObject,
    box_in_image,
    header_of,
    image_files,
    image_inventory,
    named,
    number,
    object_count,
    object_inventory,
)
from densevit_workbench.interchange.faults import Faults

_BOXES, _LABELS, _NAMES = "annotations-bbox", "annotations-human-imagelabels", "class-descriptions"
_SIDES = ("XMin", "XMax", "YMin", "YMax")


def read_open_images(source: Path, faults: Faults, channels: Channels | None = None) -> Annotated:
    """Reads the csv files below a folder, by their official names such as validation-annotations-bbox.csv, and the
    images below it, IMAGEID.jpg. Rows of images that are not there are left out.

    The classes are those with a box, by the names of *class-descriptions*.csv.
    """
    files = {kind: [f for f in files_below(source, (".csv",)) if kind in f.stem] for kind in (_BOXES, _LABELS, _NAMES)}
    for kind, found_files in files.items():
        if not found_files:
            raise DataError(f"{source}: no file *{kind}*.csv of Open Images is found. Fix: put it into this folder.")
    names = {row[0]: row[1] for file in files[_NAMES] for row in csv.reader(_lines(file)) if len(row) == 2}
    paths = {path.stem: path for path in image_files(source, channels)}
    split_of, missing = dict[str, str](), set[str]()
    boxes, negatives = defaultdict[str, list[tuple[str, Mapping[str, str]]]](list), defaultdict[str, set[str]](set)
    for kind, columns in ((_BOXES, (*_SIDES, "IsGroupOf")), (_LABELS, ("Confidence",))):
        for file in files[kind]:
            split = next((split for split, words in SPLIT_FOLDERS.items() if any(w in file.stem for w in words)), "")
            for where, row in _rows(file, ("ImageID", "LabelName", *columns)):
                image_id = row["ImageID"]
                if image_id not in paths:
                    missing.add(image_id)
                    continue
                split_of[image_id] = split
                if kind == _BOXES:
                    boxes[image_id].append((where, row))
                elif number(row["Confidence"], where) == 0:
                    negatives[image_id].add(names.get(row["LabelName"], row["LabelName"]))
    splits: dict[str, list[AnnotatedImage]] = {}
    for image_id, split in sorted(split_of.items()):
        with faults.collecting():
            path = paths[image_id]
            size = header_of(path, channels).upright_size
            objects = tuple(_objects(boxes[image_id], names, size, faults))
            image = AnnotatedImage(path, *size, objects, negatives=tuple(sorted(negatives[image_id])))
            splits.setdefault(split, []).append(image)
    faults.check(source, splits)
    classes = sorted({obj.category for images in splits.values() for image in images for obj in image.objects})
    used = [paths[image_id] for image_id in split_of]
    inventories = (
        image_inventory(source, used, splits, "without a box or a verified label", channels),
        object_inventory("box", object_count(splits), (), source, faults),
    )
    notes = (f"{counted(len(missing), 'image')} of the csv files are not there",) if missing else ()
    return Annotated(named(classes, f"{source}: classes with boxes"), splits, inventories=inventories, notes=notes)


def _objects(
    rows: Sequence[tuple[str, Mapping[str, str]]], names: Mapping[str, str], size: tuple[int, int], faults: Faults
) -> Iterator[AnnotatedObject]:
    height, width = size
    for where, row in rows:
        with faults.collecting():
            x0, x1, y0, y1 = (number(row[side], where) for side in _SIDES)
            box = box_in_image((x0 * width, y0 * height, (x1 - x0) * width, (y1 - y0) * height), size, where)
            category = names.get(row["LabelName"], row["LabelName"])
            yield AnnotatedObject(category, box, iscrowd=row["IsGroupOf"] == "1", source=where)


def _rows(file: Path, columns: Collection[str]) -> Iterator[tuple[str, Mapping[str, str]]]:
    """The rows of a csv file, each with its place. Raises DataError for a missing column."""
    reader = csv.DictReader(_lines(file))
    if missing := [column for column in columns if column not in (reader.fieldnames or ())]:
        raise DataError(f"{file}: the first line lacks {', '.join(missing)}; found {reader.fieldnames}.")
    for row in reader:
        yield f"{file}, line {reader.line_num}", row


def _lines(file: Path) -> Iterator[str]:
    """The lines of a text file, one after another: those of the training set are 14.6 million."""
    with file.open(encoding="utf-8-sig", newline="") as stream:
        yield from stream
