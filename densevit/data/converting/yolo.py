"""Reads YOLO data sets: a text file an image, a line an object, with coordinates relative to the image's sides.

Lines are `class x_center y_center width height`, or, for segmentation and oriented boxes, `class x1 y1 x2 y2 x3 y3 ...`
(Ultralytics' documentation, "Datasets overview"). Keypoints after a box, where data.yaml has `kpt_shape`, are not kept.
"""

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from densevit.data.converting.annotated import (
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
from densevit.data.converting.faults import LISTED, Faults
from densevit.data.datasets.examination import listed
from densevit.errors import DataError

_SPLITS = {"train": ("train",), "val": ("val", "valid", "validation"), "test": ("test",)}
_MARGIN = 0.05  # of the sides, by which coordinates may be outside of the image


def read_yolo(source: Path, faults: Faults) -> Annotated:
    """A data set by its data.yaml, or by its folders. source: that file, or the folder that has it.

    An image without a text file has no objects; a warning names such images.
    """
    file = source if source.is_file() else _description(source)
    values = {} if file is None else _read_yaml(file)
    root = source if source.is_dir() else source.parent
    names = _names(root, file, values)
    folders = _folders(root, file, values, faults)
    if not folders:
        raise DataError(
            f"{source}: found no images of a YOLO data set. Expected a data.yaml with train and val, or folders as "
            "images/train with labels/train, train/images with train/labels, or images with labels."
        )
    has_keypoints = "kpt_shape" in values
    splits: dict[str, list[AnnotatedImage]] = {split: [] for split in folders}
    for split, paths in folders.items():
        for path in paths:
            with faults.collecting():
                splits[split].append(_image(path, names, has_keypoints, faults))
    faults.check(source, splits)
    if not any(image.objects for images in splits.values() for image in images):
        first = next((path for paths in folders.values() for path in paths), root)
        raise DataError(f"{source}: no image has a label. Looked for {_label_file(first)} and others.")
    _warn_of_missing(splits, source)
    return Annotated(names, splits)


def _warn_of_missing(splits: Mapping[str, Sequence[AnnotatedImage]], source: Path) -> None:
    """Warns of images without a text file. An empty file says on purpose that there are no objects."""
    missing = [image.path for images in splits.values() for image in images if not image.label_file_exists]
    if missing:
        root = source if source.is_dir() else source.parent
        files = [path.relative_to(root) if path.is_relative_to(root) else path for path in missing]
        has, is_taken = ("image has", "it is") if len(missing) == 1 else ("images have", "they are")
        warnings.warn(
            f"{source}: {len(missing):,} {has} no text file: {listed(files, LISTED)}; {is_taken} taken as without "
            "objects. Where objects are missing, add the text file or remove the image; an empty text file says that "
            "there are none.",
            stacklevel=2,
        )


def _description(folder: Path) -> Path | None:
    """The yaml file of a folder that describes the data set."""
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
        f"{root}: the names of the classes are not found. Fix: write a data.yaml with `names: [cat, dog]`, in order "
        "of the labels' numbers, or a classes.txt with a name a line."
    )


def _folders(root: Path, file: Path | None, values: Mapping[str, Any], faults: Faults) -> dict[str, list[Path]]:
    """The image files of each split."""
    listed = {split: values[name] for split, names in _SPLITS.items() for name in names if values.get(name)}
    if file is not None and listed:
        base = file.parent / str(values.get("path") or "")
        return {split: _images_of(base, file, entry, root, faults) for split, entry in listed.items()}
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


def _images_of(base: Path, file: Path, entry: Any, root: Path, faults: Faults) -> list[Path]:
    """The images of an entry of data.yaml: a folder, a text file of paths, or a list of these."""
    paths: list[Path] = []
    for one in entry if isinstance(entry, list) else [entry]:
        text = str(one)
        # Exported files say ../train/images for the folder beside data.yaml.
        places = [base / text, file.parent / text, file.parent / text.removeprefix("../")]
        place = next((candidate for candidate in places if candidate.exists()), None)
        if place is None:
            raise DataError(
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


def _image(path: Path, names: tuple[str, ...], has_keypoints: bool, faults: Faults) -> AnnotatedImage:
    """An image with the objects of its text file; without one, it has none."""
    height, width = shown_size(path)
    file = _label_file(path)
    exists = file.is_file()
    objects = []
    for place, line in enumerate(read_text(file).splitlines() if exists else [], 1):
        if line.strip():
            with faults.collecting():
                where = f"{file}, line {place}"
                objects.append(_object(line.split(), names, (width, height), has_keypoints, where))
    return AnnotatedImage(path, height, width, tuple(objects), label_file_exists=exists)


def _object(
    parts: list[str], names: tuple[str, ...], sides: tuple[int, int], has_keypoints: bool, where: str
) -> AnnotatedObject:
    label, *values = (number(part, where) for part in parts)
    if label != int(label) or not 0 <= label < len(names):
        raise DataError(f"{where}: the class is {parts[0]}; the data set has {len(names)}, 0 to {len(names) - 1}.")
    values = values[:4] if has_keypoints else values
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
        return AnnotatedObject(name, bounds(corners.clip(0, 1) * sides))
    points = np.array(values).reshape(-1, 2).clip(0, 1) * sides
    return AnnotatedObject(name, bounds(points), [points.ravel().tolist()], area=polygon_area(points))
