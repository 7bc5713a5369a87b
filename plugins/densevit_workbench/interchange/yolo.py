"""Reads YOLO data sets: images with one text file each, as data.yaml, obj.data, list files or folders describe them.

See `yolo_lines` for the text files.
"""

import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any

from densevit.data.datasets.examination import listed
from densevit.data.datasets.inventory import Inventory
from densevit.data.datasets.paired_files import IMAGES
from densevit.data.io.file_lookup import find_file, name_forms
from densevit.data.io.folders import files_below
from densevit.data.io.text_files import read_text, read_yaml_as_text
from densevit.errors import DataError
from densevit.targets.keypoints import COCO_KEYPOINTS
from densevit_workbench.interchange.annotated import (
    SPLIT_FOLDERS,
    TO_CONVERT,
    Annotated,
    AnnotatedImage,
    absolute,
    below_root,
    file_inventory,
    image_files,
    image_inventory,
    is_unread,
    named,
    object_count,
    object_inventory,
    shown_place,
    shown_size,
)
from densevit_workbench.interchange.faults import LISTED, Faults
from densevit_workbench.interchange.yolo_lines import Keypoints, parse_line

_NAME_FILES = ("classes.txt", "obj.names")
_NOTHING = ("", "~", "null", "Null", "NULL")  # of YAML
_LABEL_NUMBERS = 5  # a class and a box


def read_yolo(source: Path, faults: Faults) -> Annotated:
    """Reads a data set by its data.yaml, or by its folders. source: this file, or the data set's folder.

    An image without a text file has no objects; a warning names such images.
    """
    file = source if source.is_file() else _description(source)
    values = {} if file is None else _values(file)
    root = source if source.is_dir() else source.parent
    names = _names(root, file, values)
    keypoints = _keypoints(file, values)
    listing = Listing(root, file, values, faults)
    if not any(listing.images.values()):
        unread = [path for path in image_files(root, unread=True) if is_unread(path)]
        found = f" Found {len(unread):,} files such as {unread[0]}, {TO_CONVERT}." if unread else ""
        raise DataError(
            f"{source}: found no images of a YOLO data set. Expected a data.yaml with train and val, or folders "
            f"such as images/train with labels/train, train/images with train/labels, or images with labels.{found}"
        )
    text_files = TextFiles(listing)
    splits: dict[str, list[AnnotatedImage]] = {split: [] for split in listing.images}
    confidences: list[str] = []
    for split, paths in listing.images.items():
        for path in paths:
            with faults.collecting():
                text_file = text_files.of(path, split)
                splits[split].append(_image(path, text_file, names, keypoints, faults, confidences))
    faults.check(source, splits)
    inventories = _inventories(listing, text_files, splits, faults, confidences)
    if not object_count(splits):
        first = next(path for paths in listing.images.values() for path in paths)
        looked = text_files.of(first, next(iter(splits)))
        raise DataError(f"{source}: no image has a label. Looked for {looked} and others. {inventories[2]}.")
    _warn_of_missing(splits, source)
    _warn_of_keypoints(splits, source)
    return Annotated(names, splits, keypoints=keypoints.names if keypoints else (), inventories=inventories)


def _keypoints(file: Path | None, values: Mapping[str, Any]) -> Keypoints | None:
    """Reads `kpt_shape` and `kpt_names` of data.yaml; None if it has no keypoints."""
    shape = values.get("kpt_shape", "")
    if shape in _NOTHING:
        return None
    if not (isinstance(shape, list) and len(shape) == 2 and _is_index(shape[0]) and shape[1] in ("2", "3")):
        raise DataError(f"{file}: kpt_shape is {shape}; expected [number of keypoints, 2 or 3], as in [17, 3].")
    count, columns = map(int, shape)
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
    """Returns the file of a folder that describes the data set: a yaml with names, or obj.data of darknet."""
    files = [folder / "data.yaml", *sorted(folder.glob("*.y*ml"))]
    described = next((file for file in files if file.is_file() and "names" in _values(file)), None)
    return described or next((file for file in sorted(folder.glob("*.data")) if "train" in _values(file)), None)


def _values(file: Path) -> Mapping[str, Any]:
    """Returns the keys of data.yaml, or of obj.data with val for its valid, with all scalars as text."""
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
    given = [*_places(root, file, names)] if file is not None and isinstance(names, str) else []
    for text in (*given, *(root / name for name in _NAME_FILES), root / "labels" / "classes.txt"):
        if text.is_file():
            return named([line for line in read_text(text).splitlines() if line.strip()], str(text))
    raise DataError(
        f"{root}: the class names are not found. Fix: write a data.yaml with `names: [cat, dog]`, in the order of the "
        "label numbers, or a classes.txt with one name per line."
    )


def _is_index(text: Any) -> bool:
    return isinstance(text, str) and text.isascii() and text.isdigit()


def _places(base: Path, file: Path, text: str) -> list[Path]:
    """Returns where a path of data.yaml or obj.data may be, without duplicates."""
    slashes = text.replace("\\", "/")
    # Exported files have ../train/images for the folder beside data.yaml, and data/train.txt for the file beside it.
    inner = slashes.removeprefix("../").removeprefix("data/")
    return list(dict.fromkeys([base / text, base / slashes, file.parent / slashes, file.parent / inner]))


class MissingEntryError(DataError):
    """A path of data.yaml that does not exist."""


class Listing:
    """The image files of each split, which need not exist.

    root: the data set's folder. base: `path` of data.yaml. lists: the list files. again: the images that a list names
    a second time.
    """

    def __init__(self, root: Path, file: Path | None, values: Mapping[str, Any], faults: Faults) -> None:
        self.root, self.faults, self.base = root, faults, root
        self.lists: list[Path] = []
        self.again: list[str] = []
        entries = {
            split: values[name]
            for split, names in SPLIT_FOLDERS.items()
            for name in names
            if values.get(name, "") not in _NOTHING
        }
        if file is not None and entries:
            path = values.get("path", "")
            self.base = file.parent / ("" if path in _NOTHING else str(path))
            images = self._described(file, entries)
        else:
            images = self._in_folders() or self._in_lists() or {"": self._in_folder()}
        self.images = {split: list(dict.fromkeys(paths)) for split, paths in images.items()}

    def _described(self, file: Path, entries: Mapping[str, Any]) -> dict[str, list[Path]]:
        """Returns the images that data.yaml or obj.data lists. Warns of a test split that does not exist."""
        images = {}
        for split, entry in entries.items():
            try:
                images[split] = self._of_entry(file, entry)
            except MissingEntryError as error:
                if split != "test" or not {"train", "val"} <= entries.keys():
                    raise
                warnings.warn(f"{error} The split test is left out.", stacklevel=2)
        return images

    def _of_entry(self, file: Path, entry: Any) -> list[Path]:
        """Returns the images of an entry of data.yaml: a folder, a text file of paths, or a list of these."""
        paths: list[Path] = []
        for one in entry if isinstance(entry, list) else [entry]:
            places = _places(self.base, file, str(one))
            there = [place for place in places if place.exists()]
            if not there:
                raise MissingEntryError(f"{file}: {one!r} does not exist. Looked for {', '.join(map(str, places))}.")
            place = next((place for place in there if absolute(place).is_relative_to(absolute(self.root))), there[0])
            self.faults.check_place(str(file), place, self.root)
            paths += image_files(place) if place.is_dir() else self._of_list(place)
        return paths

    def _in_folders(self) -> dict[str, list[Path]]:
        for forms in (("images/{}", "{}/images"), ("{}",)):
            found = {
                split: image_files(self.root / form.format(name))
                for split, names in SPLIT_FOLDERS.items()
                for name in names
                for form in forms
                if (self.root / form.format(name)).is_dir()
            }
            if any(found.values()):
                return {split: paths for split, paths in found.items() if paths}
        return {}

    def _in_lists(self) -> dict[str, list[Path]]:
        """Returns the images that train.txt and others beside the images list, if all lines name image files."""
        files = {split: self.root / f"{name}.txt" for split, names in SPLIT_FOLDERS.items() for name in names}
        files = {split: file for split, file in files.items() if file.is_file()}
        texts = [line for file in files.values() for line in read_text(file).splitlines() if line.strip()]
        are_images = all(PurePath(line.strip()).suffix.lower() in IMAGES for line in texts)
        return {split: self._of_list(file) for split, file in files.items()} if texts and are_images else {}

    def _in_folder(self) -> list[Path]:
        folder = self.root / "images"
        return image_files(folder if folder.is_dir() else self.root)

    def _of_list(self, file: Path) -> list[Path]:
        """Returns the images that the lines of a text file name."""
        self.lists.append(file)
        paths: dict[Path, None] = {}
        for row, line in enumerate(read_text(file).splitlines(), 1):
            if line.strip():
                path = self._listed(line.strip(), file)
                self.faults.check_place(f"{file}, line {row}", path, self.root)
                if path in paths:
                    self.again.append(f"{below_root(file, self.root)}, line {row}")
                paths[path] = None
        return list(paths)

    def _listed(self, line: str, file: Path) -> Path:
        """Returns the path that a line of a list means: relative to the list, to `path` of data.yaml or to root.

        Paths of another machine are searched for below root, without their first folders.
        """
        places = list(dict.fromkeys([file.parent, self.base, self.root]))
        for place in places:
            if found := find_file(place, line.removeprefix("./"), self.faults.outside_paths):
                return place / found
        written = file.parent / line.removeprefix("./")
        for form in name_forms(line.replace("\\", "/")):
            parts = PurePath(form).parts
            if any((place / form).parent.is_dir() for place in places):
                break  # the folder is there, and the file is missing
            for start in range(1, len(parts) - 1):
                if self.root.joinpath(*parts[start:-1]).is_dir():
                    return self.root / (find_file(self.root, "/".join(parts[start:])) or "/".join(parts[start:]))
            if find_file(self.root, parts[-1]):
                return self.root / parts[-1]
        return written


_Place = Callable[[Path, PurePath], Path]  # the text file of an image, of the data set's folder and the path below it


class TextFiles:
    """The text file of each image. listing: of the images, whose text files' folder is chosen for each split."""

    def __init__(self, listing: Listing) -> None:
        self.root, self.base = listing.root, listing.base
        self.found = {absolute(path) for path in files_below(listing.root, (".txt",))}
        self._places = {split: self._place(paths) for split, paths in listing.images.items()}

    def of(self, image: Path, split: str) -> Path:
        """Returns the text file of an image, which need not exist."""
        return self._places.get(split, _in_labels)(*self._parts(image))

    def _place(self, images: Sequence[Path]) -> "_Place":
        """Returns the rule by which most images have a text file, the first of several."""
        parts = [self._parts(image) for image in images]
        counts = []
        for place in _PLACES:
            files = (place(*folder_and_name) for folder_and_name in parts)
            counts.append(sum(absolute(file) in self.found or file.is_file() for file in files))
            if counts[-1] == len(images):
                break
        return _PLACES[counts.index(max(counts))]

    def _parts(self, image: Path) -> tuple[Path, PurePath]:
        """Returns the data set's folder and the path of an image below it: folders above it mean nothing."""
        path = absolute(image)
        for folder in (self.root, self.base):
            if path.is_relative_to(absolute(folder)):
                return folder, path.relative_to(absolute(folder))
        return Path(path.anchor), path.relative_to(path.anchor)


def _in_labels(root: Path, image: PurePath) -> Path:
    """images/train/a.jpg -> labels/train/a.txt; without a folder `images`, beside the image."""
    parts = list(image.with_suffix(".txt").parts)
    if "images" in parts[:-1]:
        parts[len(parts) - 2 - parts[-2::-1].index("images")] = "labels"
    return root.joinpath(*parts)


def _beside(root: Path, image: PurePath) -> Path:
    return root / image.with_suffix(".txt")


def _below_labels(root: Path, image: PurePath) -> Path:
    """train/a.jpg -> labels/train/a.txt"""
    return root / "labels" / image.with_suffix(".txt")


def _labels_inside(root: Path, image: PurePath) -> Path:
    """train/a.jpg -> train/labels/a.txt"""
    return root / image.parent / "labels" / image.with_suffix(".txt").name


def _labels_above(root: Path, image: PurePath) -> Path:
    """a.jpg -> ../labels/a.txt, of a source that is itself the folder `images`"""
    return (root.parent / "labels" if root.name == "images" else root) / image.with_suffix(".txt")


_PLACES: tuple[_Place, ...] = (_in_labels, _beside, _below_labels, _labels_inside, _labels_above)


def _image(
    path: Path, file: Path, names: tuple[str, ...], keypoints: Keypoints | None, faults: Faults, confidences: list[str]
) -> AnnotatedImage:
    """Reads an image and the objects of its text file, if it has one. confidences: gets the lines that have one."""
    height, width = shown_size(path)
    exists = file.is_file()
    if exists:
        faults.check_single_use(file, path)
    objects = []
    for place, line in enumerate(read_text(file).splitlines() if exists else [], 1):
        if line.strip():
            with faults.collecting():
                where = f"{file}, line {place}"
                one, has_confidence = parse_line(line.split(), names, (width, height), keypoints, where)
                objects.append(one)
                confidences += [where] * has_confidence
    return AnnotatedImage(path, height, width, tuple(objects), label_file_exists=exists)


def _inventories(
    listing: Listing,
    text_files: TextFiles,
    splits: Mapping[str, Sequence[AnnotatedImage]],
    faults: Faults,
    confidences: Sequence[str],
) -> tuple[Inventory, ...]:
    root = listing.root
    wanted = [path for paths in listing.images.values() for path in paths]
    images = image_inventory(root, wanted, splits, "in no split")
    images.leave_out("named again by a list", listing.again)
    split_of = {path: split for split, paths in listing.images.items() for path in paths}
    owners = {absolute(text_files.of(path, split_of.get(path, ""))): path for path in image_files(root, unread=True)}
    used = {
        absolute(text_files.of(image.path, split))
        for split, images_of_split in splits.items()
        for image in images_of_split
        if image.label_file_exists
    }
    others = {
        file for file in text_files.found - used - {*map(absolute, listing.lists)} if file.name not in _NAME_FILES
    }
    lines = {file: _lines(file) for file in others}
    lines = {file: texts for file, texts in lines.items() if file in owners or _holds_labels(file, texts, root)}

    def reason(file: Path) -> str:
        if file not in owners:
            return "without an image"
        return f"of an image {TO_CONVERT}" if is_unread(owners[file]) else "of an image that is left out"

    of_others = [below_root(file, root) for file, texts in sorted(lines.items()) for _ in texts]
    column = Inventory("confidence")
    column.leave_out("after the coordinates of an object", (shown_place(where, root) for where in confidences))
    return (
        images,
        file_inventory("label file", [*lines, *used], used, root, reason),
        object_inventory("object", object_count(splits), of_others, root, faults),
        *([column] if confidences else []),
    )


def _lines(file: Path) -> list[str]:
    """Returns the lines of a text file that is not used; none if it cannot be read."""
    try:
        return [line for line in read_text(file).splitlines() if line.strip()]
    except DataError:
        return []


def _holds_labels(file: Path, lines: Sequence[str], root: Path) -> bool:
    """Whether a text file is in a folder `labels`, or begins with a class and numbers."""
    parts = lines[0].split() if lines else []
    is_row = len(parts) >= _LABEL_NUMBERS and all(part.replace(".", "", 1).isdigit() for part in parts)
    return is_row or "labels" in Path(below_root(file, root)).parts
