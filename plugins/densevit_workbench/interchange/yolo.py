"""Reads YOLO data sets: images with one text file each. See `yolo_files` for layouts, `yolo_lines` for the format."""

import warnings
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from densevit.channels import Channels
from densevit.data.io.text_files import read_text
from densevit.errors import DataError, listed
from densevit_workbench.interchange.annotated import (
    TO_CONVERT,
    Annotated,
    AnnotatedImage,
    absolute,
    below_root,
    file_inventory,
    header_of,
    image_files,
    image_inventory,
    is_unread,
    named,
    object_count,
    object_inventory,
)
from densevit_workbench.interchange.faults import LISTED, Faults
from densevit_workbench.interchange.inventory import Inventory
from densevit_workbench.interchange.yaml_text import read_yaml_as_text
from densevit_workbench.interchange.yolo_files import NOTHING, Listing, TextFiles, places_of
from densevit_workbench.interchange.yolo_lines import LineForm, YoloLine, form_of, parse_line

_NAME_FILES = ("classes.txt", "obj.names")


def read_yolo(source: Path, faults: Faults, channels: Channels | None = None) -> Annotated:
    """Reads a data set by its data.yaml, or by its folders. source: this file, or the data set's folder.

    An image without a text file has no objects; a warning names such images.
    """
    file = source if source.is_file() else _description(source)
    values = {} if file is None else _values(file)
    root = source if source.is_dir() else source.parent
    names = _names(root, file, values)
    listing = Listing(root, file, values, faults, channels)
    if not any(listing.images.values()):
        unread = [path for path in image_files(root, channels, unread=True) if is_unread(path)]
        unread_note = f" Found {len(unread):,} files such as {unread[0]}, {TO_CONVERT}." if unread else ""
        raise DataError(
            f"{source}: found no images of a YOLO data set. Expected a data.yaml with train and val, or folders such "
            f"as images/train with labels/train, train/images with train/labels, or images with labels.{unread_note}"
        )
    text_files = TextFiles(listing)
    labelled = {
        split: faults.map(partial(_labelled, split, text_files, listing), paths)
        for split, paths in listing.images.items()
    }
    lines = [line for images in labelled.values() for image in images for line in image.lines]
    form = form_of(lines, _kpt_shape(file, values), source)
    splits = {split: [_image(image, names, form, faults) for image in images] for split, images in labelled.items()}
    faults.check(source, splits)
    inventories = _inventories(listing, text_files, splits)
    if not object_count(splits):
        first = next(path for paths in listing.images.values() for path in paths)
        looked = text_files.of(first, next(iter(splits)))
        raise DataError(f"{source}: no image has a label. Looked for {looked} and others. {inventories[2]}.")
    _warn_of_missing(splits, source)
    notes = (f"boxes have {form.keypoints} keypoints, kept in the json; no built-in head uses them",)
    return Annotated(names, splits, inventories=inventories, notes=notes if form.keypoints else ())


def _warn_of_missing(splits: Mapping[str, Sequence[AnnotatedImage]], source: Path) -> None:
    """Warns of images without a text file. An empty file states that an image has no objects."""
    missing = [image.path for images in splits.values() for image in images if not image.label_file_exists]
    if missing:
        root = source if source.is_dir() else source.parent
        files = [path.relative_to(root) if path.is_relative_to(root) else path for path in missing]
        has, is_taken = ("image has", "it is") if len(missing) == 1 else ("images have", "they are")
        warnings.warn(
            f"{source}: {len(missing):,} {has} no text file: {listed(files, LISTED)}; {is_taken} converted "
            "without objects. If objects are missing, add the text file or remove the image; an empty text file states "
            "that there are none.",
            stacklevel=2,
        )


def _description(folder: Path) -> Path | None:
    """The file that describes the data set: a yaml with names, or darknet's obj.data."""
    files = [folder / "data.yaml", *sorted(folder.glob("*.y*ml"))]
    described = next((file for file in files if file.is_file() and "names" in _values(file)), None)
    darknet = folder / "obj.data"
    return described or (darknet if darknet.is_file() else None)


def _values(file: Path) -> Mapping[str, Any]:
    """The keys of data.yaml or obj.data, with all scalars as text."""
    if file.suffix != ".data":
        values = read_yaml_as_text(file)
        return values if isinstance(values, Mapping) else {}
    pairs = (line.partition("=") for line in read_text(file).splitlines())
    return {key.strip(): value.strip() for key, equals, value in pairs if equals}


def _names(root: Path, file: Path | None, values: Mapping[str, Any]) -> tuple[str, ...]:
    names = values.get("names")
    if isinstance(names, Mapping):
        by_index = {int(key): name for key, name in names.items() if _is_index(key)}
        if sorted(by_index) != list(range(len(names))):
            raise DataError(f"{file}: `names` has the keys {sorted(names)}; expected 0, 1, 2, ...")
        names = [by_index[index] for index in range(len(names))]
    if isinstance(names, list):
        return named(names, f"{file}: names")
    candidates = [*places_of(root, file, names)] if file is not None and isinstance(names, str) else []
    for text in (*candidates, *(root / name for name in _NAME_FILES), root / "labels" / "classes.txt"):
        if text.is_file():
            return named([line for line in read_text(text).splitlines() if line.strip()], str(text))
    raise DataError(
        f"{root}: the class names are not found. Fix: write a data.yaml with `names: [cat, dog]`, in the order of the "
        "label numbers, or a classes.txt with one name per line."
    )


def _is_index(text: Any) -> bool:
    return isinstance(text, str) and text.isascii() and text.isdigit()


def _kpt_shape(file: Path | None, values: Mapping[str, Any]) -> tuple[int, ...] | None:
    """Number and dimensions of the keypoints in data.yaml; () for an empty list, None without the key."""
    shape = values.get("kpt_shape", "")
    if shape in NOTHING:
        return None
    if shape != [] and not (isinstance(shape, list) and len(shape) == 2 and all(map(_is_index, shape))):
        raise DataError(f"{file}: kpt_shape is {shape}; expected [number of keypoints, 2 or 3], or [] for none.")
    return tuple(map(int, shape))


class _LabelledImage(NamedTuple):
    """An image with the lines of its text file. size: height and width."""

    path: Path
    size: tuple[int, int]
    lines: Sequence[YoloLine]
    has_file: bool


def _labelled(split: str, text_files: TextFiles, listing: Listing, path: Path) -> _LabelledImage:
    """Reads the size of an image, and its text file, if any."""
    faults, file = listing.faults, text_files.of(path, split)
    size = header_of(path, listing.channels).upright_size
    has_file = file.is_file()
    if has_file:
        faults.record_use(file, path)
    texts = enumerate(read_text(file).splitlines() if has_file else [], 1)
    stated = [(text, f"{file}, line {row}") for row, text in texts if text.strip()]
    lines = faults.map(lambda line: YoloLine.of(*line), stated)
    return _LabelledImage(path, size, lines, has_file)


def _image(image: _LabelledImage, names: tuple[str, ...], form: LineForm, faults: Faults) -> AnnotatedImage:
    height, width = image.size
    objects = faults.map(partial(parse_line, names=names, sides=(width, height), form=form), image.lines)
    return AnnotatedImage(image.path, height, width, tuple(objects), label_file_exists=image.has_file)


def _inventories(
    listing: Listing,
    text_files: TextFiles,
    splits: Mapping[str, Sequence[AnnotatedImage]],
) -> tuple[Inventory, ...]:
    root, channels = listing.root, listing.channels
    wanted = [path for paths in listing.images.values() for path in paths]
    images = image_inventory(root, wanted, splits, "in no split", channels)
    split_of = {path: split for split, paths in listing.images.items() for path in paths}
    owners = {
        absolute(text_files.of(path, split_of.get(path, ""))): path for path in image_files(root, channels, unread=True)
    }
    used = {
        absolute(text_files.of(image.path, split))
        for split, images_of_split in splits.items()
        for image in images_of_split
        if image.label_file_exists
    }
    unused_files = {
        file for file in text_files.all() - used - {*map(absolute, listing.lists)} if file.name not in _NAME_FILES
    }
    unused_files = {file for file in unused_files if file in owners or "labels" in Path(below_root(file, root)).parts}
    lines = {file: _lines(file) for file in unused_files}

    def reason(file: Path) -> str:
        if file not in owners:
            return "without an image"
        return f"of an image {TO_CONVERT}" if is_unread(owners[file]) else "of an image that is left out"

    unused_lines = [below_root(file, root) for file, texts in sorted(lines.items()) for _ in texts]
    return (
        images,
        file_inventory("label file", [*lines, *used], used, root, reason),
        object_inventory("object", object_count(splits), unused_lines, root, listing.faults),
    )


def _lines(file: Path) -> list[str]:
    """The lines of an unused text file; empty if it cannot be read."""
    try:
        return [line for line in read_text(file).splitlines() if line.strip()]
    except DataError:
        return []
