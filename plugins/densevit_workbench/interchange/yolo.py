"""Reads YOLO data sets: one text file per image, one line per object, with coordinates relative to the image's sides.

Lines are `class x_center y_center width height`, or, for segmentation and oriented boxes, `class x1 y1 x2 y2 x3 y3 ...`
(Ultralytics' documentation, "Datasets overview"). If data.yaml has `kpt_shape: [K, 3]`, a box is followed by x, y
and visibility of K keypoints, or by x and y for `[K, 2]`.
"""

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import yaml

from densevit.data.datasets.examination import listed
from densevit.errors import DataError
from densevit.targets.keypoints import COCO_KEYPOINTS
from densevit_workbench.interchange.annotated import (
    Annotated,
    AnnotatedImage,
    AnnotatedObject,
    bounds,
    image_files,
    named,
    number,
    polygon_area,
    read_text,
    shown_size,
)
from densevit_workbench.interchange.faults import LISTED, Faults

_SPLITS = {"train": ("train",), "val": ("val", "valid", "validation"), "test": ("test",)}
_MARGIN = 0.05  # share of a side by which coordinates may be outside of the image


def read_yolo(source: Path, faults: Faults) -> Annotated:
    """Reads a data set by its data.yaml, or by its folders. source: this file, or the data set's folder.

    An image without a text file has no objects; a warning names such images.
    """
    file = source if source.is_file() else _description(source)
    values = {} if file is None else _read_yaml(file)
    root = source if source.is_dir() else source.parent
    names = _names(root, file, values)
    folders = _folders(root, file, values, faults)
    if not folders:
        raise DataError(
            f"{source}: found no images of a YOLO data set. Expected a data.yaml with train and val, or folders "
            "such as images/train with labels/train, train/images with train/labels, or images with labels."
        )
    keypoints = _keypoints(file, values)
    splits: dict[str, list[AnnotatedImage]] = {split: [] for split in folders}
    for split, paths in folders.items():
        for path in paths:
            with faults.collecting():
                splits[split].append(_image(path, names, keypoints, faults))
    faults.check(source, splits)
    if not any(image.objects for images in splits.values() for image in images):
        first = next((path for paths in folders.values() for path in paths), root)
        raise DataError(f"{source}: no image has a label. Looked for {_label_file(first)} and others.")
    _warn_of_missing(splits, source)
    _warn_of_keypoints(splits, source)
    return Annotated(names, splits, keypoints=keypoints.names if keypoints else ())


class Keypoints(NamedTuple):
    """Format of the keypoints. names: of the K keypoints. columns: 3 with visibility, or 2."""

    names: tuple[str, ...]
    columns: int


def _keypoints(file: Path | None, values: Mapping[str, Any]) -> Keypoints | None:
    """Reads `kpt_shape` and `kpt_names` of data.yaml; None if it has no keypoints."""
    shape = values.get("kpt_shape")
    if shape is None:
        return None
    if not (
        isinstance(shape, list) and len(shape) == 2 and type(shape[0]) is int and shape[0] > 0 and shape[1] in (2, 3)
    ):
        raise DataError(f"{file}: kpt_shape is {shape}; expected [number of keypoints, 2 or 3], as in [17, 3].")
    count, columns = shape
    names = values.get("kpt_names")
    if isinstance(names, Mapping):  # by class
        names = next(iter(names.values()), None)
    if names is None:
        names = COCO_KEYPOINTS if count == len(COCO_KEYPOINTS) else [f"keypoint {k + 1}" for k in range(count)]
    if not isinstance(names, list | tuple) or len(names) != count:
        raise DataError(f"{file}: kpt_names is {names}; expected the names of {count} keypoints, as in kpt_shape.")
    return Keypoints(tuple(map(str, names)), columns)


def _warn_of_keypoints(splits: Mapping[str, Sequence[AnnotatedImage]], source: Path) -> None:
    objects = [one for images in splits.values() for image in images for one in image.objects]
    count = sum("keypoints" in one.more for one in objects)
    if count:
        warnings.warn(
            f"{source}: {count:,} of {len(objects):,} objects have keypoints. They are written as COCO's `keypoints`; "
            "the data set 'coco' reads boxes and masks only.",
            stacklevel=2,
        )


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
    """Returns the yaml file of a folder that describes the data set."""
    files = [folder / "data.yaml", *sorted(folder.glob("*.y*ml"))]
    return next((file for file in files if file.is_file() and "names" in _read_yaml(file)), None)


def _read_yaml(file: Path) -> Mapping[str, Any]:
    try:
        values = yaml.safe_load(file.read_text("utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise DataError(f"{file} cannot be read: {' '.join(str(error).split())}.") from None
    return values if isinstance(values, Mapping) else {}


def _names(root: Path, file: Path | None, values: Mapping[str, Any]) -> tuple[str, ...]:
    names = values.get("names")
    if isinstance(names, Mapping):
        if sorted(names) != list(range(len(names))):
            raise DataError(f"{file}: `names` has the keys {sorted(names, key=str)}; expected 0, 1, 2, ...")
        names = [names[index] for index in range(len(names))]
    if isinstance(names, list):
        return named(names, f"{file}: names")
    for text in (root / "classes.txt", root / "obj.names", root / "labels" / "classes.txt"):
        if text.is_file():
            return named([line for line in read_text(text).splitlines() if line.strip()], str(text))
    raise DataError(
        f"{root}: the class names are not found. Fix: write a data.yaml with `names: [cat, dog]`, in the order of the "
        "label numbers, or a classes.txt with one name per line."
    )


def _folders(root: Path, file: Path | None, values: Mapping[str, Any], faults: Faults) -> dict[str, list[Path]]:
    """Returns the image files of each split."""
    listed = {split: values[name] for split, names in _SPLITS.items() for name in names if values.get(name)}
    if file is not None and listed:
        base = file.parent / str(values.get("path") or "")
        return _listed_images(base, file, listed, root, faults)
    for forms in (("images/{}", "{}/images"), ("{}",)):
        found = {
            split: image_files(root / form.format(name))
            for split, names in _SPLITS.items()
            for name in names
            for form in forms
            if (root / form.format(name)).is_dir()
        }
        if any(found.values()):
            return {split: paths for split, paths in found.items() if paths}
    images = image_files(root / "images" if (root / "images").is_dir() else root)
    return {"": images} if images else {}


def _listed_images(
    base: Path, file: Path, listed: Mapping[str, Any], root: Path, faults: Faults
) -> dict[str, list[Path]]:
    """Returns the image files of each split that data.yaml lists. Warns of a test split that does not exist."""
    found = {}
    for split, entry in listed.items():
        try:
            found[split] = _images_of(base, file, entry, root, faults)
        except MissingEntryError as error:
            if split != "test" or not {"train", "val"} <= listed.keys():
                raise
            warnings.warn(f"{error} The split test is left out.", stacklevel=2)
    return found


class MissingEntryError(DataError):
    """A path of data.yaml that does not exist."""


def _images_of(base: Path, file: Path, entry: Any, root: Path, faults: Faults) -> list[Path]:
    """Returns the images of an entry of data.yaml: a folder, a text file of paths, or a list of these."""
    paths: list[Path] = []
    for one in entry if isinstance(entry, list) else [entry]:
        text = str(one)
        # Exported files have ../train/images for the folder beside data.yaml.
        places = [base / text, file.parent / text, file.parent / text.removeprefix("../")]
        place = next((candidate for candidate in places if candidate.exists()), None)
        if place is None:
            raise MissingEntryError(
                f"{file}: {text!r} does not exist. Looked for {', '.join(map(str, dict.fromkeys(places)))}."
            )
        faults.check_place(str(file), place, root)
        if place.is_dir():
            paths += image_files(place)
            continue
        for row, line in enumerate(read_text(place).splitlines(), 1):
            if line.strip():
                paths.append(place.parent / line.strip().removeprefix("./"))
                faults.check_place(f"{place}, line {row}", paths[-1], root)
    return paths


def _label_file(image: Path) -> Path:
    """images/a.jpg -> labels/a.txt; without a folder `images`, beside the image."""
    parts = list(image.with_suffix(".txt").parts)
    if "images" in parts:
        parts[len(parts) - 1 - parts[::-1].index("images")] = "labels"
    return Path(*parts)


def _image(path: Path, names: tuple[str, ...], keypoints: Keypoints | None, faults: Faults) -> AnnotatedImage:
    """Reads an image and the objects of its text file, if it has one."""
    height, width = shown_size(path)
    file = _label_file(path)
    exists = file.is_file()
    objects = []
    for place, line in enumerate(read_text(file).splitlines() if exists else [], 1):
        if line.strip():
            with faults.collecting():
                where = f"{file}, line {place}"
                objects.append(_object(line.split(), names, (width, height), keypoints, where))
    return AnnotatedImage(path, height, width, tuple(objects), label_file_exists=exists)


def _object(
    parts: list[str], names: tuple[str, ...], sides: tuple[int, int], keypoints: Keypoints | None, where: str
) -> AnnotatedObject:
    label, *values = (number(part, where) for part in parts)
    if label != int(label) or not 0 <= label < len(names):
        raise DataError(
            f"{where}: the class is {parts[0]}; expected 0 to {len(names) - 1}, the classes of the data set."
        )
    more: dict[str, Any] = {}
    if keypoints is not None and len(values) > 4:
        values, more = values[:4], _keypoint_values(values[4:], keypoints, sides, where)
    if len(values) != 4 and (len(values) < 6 or len(values) % 2):
        raise DataError(
            f"{where}: {len(parts)} numbers; expected a class and x, y, width, height, or a class and 3 points or more."
        )
    if min(values) < -_MARGIN or max(values) > 1 + _MARGIN:
        wrong = next(value for value in values if not -_MARGIN <= value <= 1 + _MARGIN)
        raise DataError(f"{where}: {wrong:g} is not within 0 ... 1, the range of coordinates relative to the image.")
    name = names[int(label)]
    if len(values) == 4:
        x, y, w, h = values
        corners = np.array([[x - w / 2, y - h / 2], [x + w / 2, y + h / 2]])
        return AnnotatedObject(name, bounds(corners.clip(0, 1) * sides), more=more)
    points = np.array(values).reshape(-1, 2).clip(0, 1) * sides
    return AnnotatedObject(name, bounds(points), [points.ravel().tolist()], area=polygon_area(points))


def _keypoint_values(values: list[float], keypoints: Keypoints, sides: tuple[int, int], where: str) -> dict[str, Any]:
    """Returns COCO's `keypoints`, a flat list of x, y and visibility, and `num_keypoints`.

    If the file has no visibility, a keypoint at 0, 0 is not labelled, and others are visible.
    """
    count = len(keypoints.names)
    if len(values) != count * keypoints.columns:
        raise DataError(
            f"{where}: {len(values) + 5} numbers; expected a class, a box and {count} keypoints of {keypoints.columns} "
            f"numbers, {5 + count * keypoints.columns} in all, as kpt_shape says."
        )
    points = np.array(values).reshape(count, keypoints.columns)
    visible = points[:, 2] if keypoints.columns == 3 else 2.0 * (points != 0).any(axis=1)
    if not np.isin(visible, (0, 1, 2)).all():
        raise DataError(
            f"{where}: a keypoint has the visibility {visible[~np.isin(visible, (0, 1, 2))][0]:g}; expected 0, 1 or 2."
        )
    outside = (np.abs(points[:, :2] - 0.5) > 0.5 + _MARGIN).any(axis=1) & (visible > 0)
    if outside.any():
        raise DataError(f"{where}: the keypoint {points[outside][0, :2].tolist()} is not within 0 ... 1.")
    pixels = np.where(visible[:, None] > 0, points[:, :2] * sides, 0)
    rows = np.column_stack([pixels.round(6), visible])
    flat = [int(value) if value == int(value) else value for value in rows.ravel().tolist()]
    return {"keypoints": flat, "num_keypoints": int((visible > 0).sum())}
