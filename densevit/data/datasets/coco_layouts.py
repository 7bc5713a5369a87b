"""Finds the json of a split in a folder in COCO's format, and the images of a json."""

import json
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from densevit import registry
from densevit.data.datasets.division import is_divided
from densevit.data.datasets.split_folders import spellings
from densevit.data.io.file_lookup import find_by_base_name, find_file, local_names
from densevit.data.io.text_files import read_text
from densevit.errors import DataError, PluginError
from densevit.interfaces import Dataset
from densevit.paths import user_path

Where = str | dict[str, str]  # a path for every split, or by split
SPLITS = ("train", "val", "test")
_DEPTHS = ("", "*/", "*/*/")  # folders in which a single json is searched for
_MOST_JSONS = 50  # files that are read to find a single json; a folder of one json per image has more
_MOST_FOLDERS = 1000  # folders in which images are searched for
_SEEN = 100  # images whose files are searched for


class NoAnnotationsError(DataError):
    """A folder without annotations of any split."""


@dataclass(frozen=True)
class SplitFiles:
    """The json of a split.

    folders: candidate folders of its images. root: the folder that is searched if no candidate has the images; None:
    no search. conversion: what was converted, for `Dataset.conversion`.
    """

    file: Path
    folders: tuple[Path, ...]
    root: Path | None = None
    conversion: str = ""

    def image_folder(self, names: Sequence[str]) -> Path:
        """Returns the candidate folder with most of these images; if none has any, the folder below root.

        If no folder has any image, returns the first candidate that exists; validation then reports missing files.
        Raises DataError if folders below root have files of the same base name for a URL or a path out of the folder.
        """
        names = names[:_SEEN]
        existing = [folder for folder in self.folders if folder.is_dir()]
        best = _with_most(existing, names)
        if best is None and self.root is not None:
            folders = _folders_below(self.root)
            best = _with_most(folders, names)
            for name in (name for name in names if any(local_names(name))):
                if len(files := [folder / file for folder in folders if (file := find_by_base_name(folder, name))]) > 1:
                    raise DataError(
                        f"{self.file}: {files[0]} and {files[1]} may both be the image {name!r}. Fix: keep one of "
                        "them, or name the folder of the images with data.images."
                    )
        if best is None and not existing:
            looked = ", ".join(map(str, dict.fromkeys(self.folders)))
            raise DataError(f"{self.file}: its images' folder is not found. Looked for {looked}.")
        return best or existing[0]


@dataclass(frozen=True)
class NamedFiles:
    """The jsons and image folders that a config names, relative to root: a path for every split, or {split: path}."""

    annotations: Where | None = None
    images: Where | None = None

    def of(self, split: str) -> tuple[str | None, str | None]:
        """Returns the json and the image folder of a split; None where the config names none."""
        both = (self.annotations, self.images)
        annotations, images = (where.get(split) if isinstance(where, dict) else where for where in both)
        return annotations, images


def find_files(root: Path | None, split: str, named: NamedFiles, val_share: float | None) -> tuple[SplitFiles, bool]:
    """Returns the files of a split, and whether they hold the images of train and val, which are then divided.

    Raises NoAnnotationsError if no split has a json, and DataError if this split has none and for a `val_share` of a
    data set with a val split.
    """
    has_parts = is_divided(split, val_share, _val_split(root, named))
    train = files_of(root, "train", named) if has_parts else None
    if train is None and has_parts and root is not None:
        train = single_json(root, named.of("train")[1])
    files = train or files_of(root, split, named)
    if files is None:
        assert root is not None
        raise _missing_split(root, split, named)
    return files, train is not None


def _val_split(root: Path | None, named: NamedFiles) -> Path | str | None:
    """Returns the file or option of the val split; None if there is none, as with a json for every split."""
    if isinstance(named.annotations, dict) and "val" in named.annotations:
        return named.annotations["val"]
    val_files = None if root is None or isinstance(named.annotations, str) else files_in_layout(root, "val")
    if val_files is None:
        return named.images.get("val") if isinstance(named.images, dict) else None
    return val_files.file


def files_of(root: Path | None, split: str, named: NamedFiles) -> SplitFiles | None:
    """Returns the files of a split, from the options or from a layout; None if the folder has none."""
    annotations, images = named.of(split)
    if root is None and (annotations is None or images is None):
        raise DataError(
            "data.root is missing: name the data set's folder, or both the json and the image folder of each split "
            "(data.annotations.train, data.images.train, data.annotations.val, data.images.val)."
        )
    base = root or Path()
    if annotations is None:
        return files_in_layout(base, split, images)
    file = base / user_path(annotations)
    if not file.is_file():
        raise DataError(
            f"There is no annotation file {file} for the split {split!r}. Fix: correct data.annotations, or set it to "
            "null for a file with a usual name."
        )
    folders = [folder for _, candidates in _layouts(base, split) for folder in candidates]
    return _with_images(SplitFiles(file, (*folders, file.parent), root), base, images)


def _with_images(files: SplitFiles, base: Path, images: str | None) -> SplitFiles:
    """Sets the image folder if it is given by an option."""
    return files if images is None else SplitFiles(files.file, (base / user_path(images),))


def files_in_layout(root: Path, split: str, images: str | None = None) -> SplitFiles | None:
    """Returns the files of a split in the first layout that has its json. images: the folder of the images; None: the
    layout's folders."""
    candidates = ((file, folders) for file, folders in _layouts(root, split) if file.is_file())
    files = next((SplitFiles(file, tuple(folders), root) for file, folders in candidates), None)
    return None if files is None else _with_images(files, root, images)


def single_json(root: Path, images: str | None = None) -> SplitFiles | None:
    """Returns the only json in COCO's format, such as Label Studio's result.json, of a folder in no layout."""
    if any(files_in_layout(root, split) for split in SPLITS):
        return None
    files = _coco_jsons(root)
    return _with_images(SplitFiles(files[0], (files[0].parent, root), root), root, images) if len(files) == 1 else None


def _missing_split(root: Path, split: str, named: NamedFiles) -> DataError:
    """Returns the error for a folder without a json of this split."""
    other_splits = [other for other in SPLITS if files_of(root, other, named) is not None]
    hint = f", only for {', '.join(other_splits)} (data.val_split)" if other_splits else ""
    jsons = [] if other_splits else _coco_jsons(root)
    several = ", ".join(str(file.relative_to(root)) for file in jsons[:5])
    unused = f"\nFound {len(jsons)} files in COCO's format with other names: {several}." if jsons else ""
    places = "".join(f"\n  {file.relative_to(root)}" for file, _ in _layouts(root, split))
    error_class = DataError if other_splits else NoAnnotationsError
    return error_class(
        f"{root} has no annotations for the split {split!r}{hint}. Looked for{places}{unused}\nName the file and its "
        f"images' folder with data.annotations.{split} and data.images.{split}, relative to data.root."
    )


def _layouts(root: Path, split: str) -> Iterator[tuple[Path, list[Path]]]:
    """Yields candidate jsons of a split in order of preference, each with the candidate folders of its images."""
    for name in spellings(split) if split == "val" else (split,):
        official = rf"instances_({re.escape(name)}\d*)\.json"
        years = sorted(path.name for path in root.glob("annotations/instances_*.json"))
        dated = [match[1] for path in years if (match := re.fullmatch(official, path, re.IGNORECASE))]
        for folder in dated[::-1] or [f"{name}2017"]:  # later years first
            places = [root / folder, root / "images" / folder, root / "images", root]
            yield root / "annotations" / f"instances_{folder}.json", places
        places = [root / name, root / name / "images", root / "images" / name, root / "images", root]
        yield root / f"{name}.json", places
        yield root / "annotations" / f"{name}.json", places
        for file in ("_annotations.coco.json", "annotations.json"):
            yield root / name / file, [root / name, root / name / "images", root]


def other_format(root: Path, coco: type[Dataset]) -> tuple[str, type[Any]] | None:
    """Returns the name and class of the subclass of `Coco` that recognises a folder or file in another format, and
    converts it; None if there is none. coco: the class `Coco`. Raises DataError for a format that none converts."""
    refusal: DataError | None = None
    for name in registry.find("datasets"):
        try:
            plugin = registry.load("datasets", name)
            if plugin is not coco and issubclass(plugin, coco) and plugin.recognise(root) is not None:
                return name, plugin
        except PluginError:
            continue
        except DataError as error:
            refusal = error
    if refusal is not None:
        raise refusal
    return None


def _coco_jsons(root: Path) -> list[Path]:
    """Returns all jsons in COCO's format; none if a folder has too many jsons to read."""
    files = list(islice((file for depth in _DEPTHS for file in sorted(root.glob(f"{depth}*.json"))), _MOST_JSONS + 1))
    return [] if len(files) > _MOST_JSONS else [file for file in files if _is_coco(file)]


def _is_coco(file: Path) -> bool:
    """Whether a json has images with file names and categories, which may be empty, and no panoptic segments."""
    try:
        content = read_text(file) if file.is_file() else ""
        if not all(f'"{key}"' in content for key in ("images", "file_name", "categories")):
            return False
        document = json.loads(content)
    except (ValueError, RecursionError):  # includes DataError
        return False
    if not isinstance(document, dict) or '"segments_info"' in content:
        return False
    images, categories = document.get("images"), document.get("categories")
    return isinstance(images, list) and len(images) > 0 and isinstance(categories, list)


def _with_most(folders: Sequence[Path], names: Sequence[str]) -> Path | None:
    """Returns the first folder with the largest number of these files; None if none has any."""
    counts = [
        sum(bool(find_file(folder, name, outside_paths=True) or find_by_base_name(folder, name)) for name in names)
        for folder in folders
    ]
    return folders[counts.index(max(counts))] if any(counts) else None


def _folders_below(root: Path) -> list[Path]:
    """Returns a folder and its subfolders, without hidden ones."""

    def walk() -> Iterator[Path]:
        for folder, names, _ in os.walk(root, followlinks=True):
            names[:] = sorted(name for name in names if not name.startswith("."))
            yield Path(folder)

    return list(islice(walk(), _MOST_FOLDERS))
