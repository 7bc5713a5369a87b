"""Finds the images of a YOLO data set, by data.yaml, obj.data, list files or folders, and their text files."""

import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any

from densevit.channels import RGB, Channels
from densevit.data.datasets.image_files import image_suffixes
from densevit.data.io.file_lookup import find_file, name_forms
from densevit.data.io.folders import files_below
from densevit.data.io.text_files import read_text
from densevit.errors import DataError
from densevit_workbench.interchange.annotated import SPLIT_FOLDERS, absolute, image_files
from densevit_workbench.interchange.faults import Faults
from densevit_workbench.interchange.image_lookup import key

NOTHING = ("", "~", "null", "Null", "NULL")  # of YAML


def places_of(base: Path, file: Path, text: str) -> list[Path]:
    """Candidate locations of a path in `file`, data.yaml or obj.data: in the folder `base`, then beside the file."""
    slashes = text.replace("\\", "/")
    # Exported files have ../train/images for the folder beside data.yaml, and data/train.txt for the file beside it.
    inner = slashes.removeprefix("../").removeprefix("data/")
    return list(dict.fromkeys([base / text, base / slashes, file.parent / slashes, file.parent / inner]))


class MissingEntryError(DataError):
    """A path of data.yaml that does not exist."""


class Listing:
    """The image files of each split, existing or not.

    root: the data set's folder. base: `path` in data.yaml. lists: the list files. channels: the images' channels; None:
    RGB.
    """

    def __init__(
        self, root: Path, file: Path | None, values: Mapping[str, Any], faults: Faults, channels: Channels | None
    ) -> None:
        self.root, self.faults, self.base, self.channels = root, faults, root, channels
        self.lists: list[Path] = []
        entries = {
            split: values[name]
            for split, names in SPLIT_FOLDERS.items()
            for name in names
            if values.get(name, "") not in NOTHING
        }
        if file is not None and entries:
            path = values.get("path", "")
            self.base = file.parent / ("" if path in NOTHING else str(path))
            images = self._described(file, entries)
        else:
            images = self._in_folders() or self._in_lists() or {"": self._in_folder()}
        self.images = {split: list(dict.fromkeys(paths)) for split, paths in images.items()}

    def _described(self, file: Path, entries: Mapping[str, Any]) -> dict[str, list[Path]]:
        """The images of data.yaml or obj.data. Warns of a missing test split."""
        images = {}
        for split, entry in entries.items():
            try:
                images[split] = self._entry_images(file, entry)
            except MissingEntryError as error:
                if split != "test" or not {"train", "val"} <= entries.keys():
                    raise
                warnings.warn(f"{error} The split test is left out.", stacklevel=2)
        return images

    def _entry_images(self, file: Path, entry: Any) -> list[Path]:
        """The images of an entry of data.yaml: a folder, a text file of paths, or a list of these."""
        paths: list[Path] = []
        for text in entry if isinstance(entry, list) else [entry]:
            candidates = places_of(self.base, file, str(text))
            existing = [path for path in candidates if path.exists()]
            if not existing:
                raise MissingEntryError(
                    f"{file}: {text!r} does not exist. Looked for {', '.join(map(str, candidates))}."
                )
            path = next((path for path in existing if absolute(path).is_relative_to(absolute(self.root))), existing[0])
            self.faults.check_place(str(file), path, self.root)
            paths += image_files(path, self.channels) if path.is_dir() else self._listed_images(path)
        return paths

    def _in_folders(self) -> dict[str, list[Path]]:
        for forms in (("images/{}", "{}/images"), ("{}",)):
            images: dict[str, list[Path]] = {}
            for split, names in SPLIT_FOLDERS.items():
                folders = (self.root / form.format(name) for name in names for form in forms)
                paths = [path for folder in folders if folder.is_dir() for path in image_files(folder, self.channels)]
                images |= {split: paths} if paths else {}
            if images:
                return images
        return {}

    def _in_lists(self) -> dict[str, list[Path]]:
        """The images listed in train.txt and similar files in root, if all lines name image files."""
        candidates = ((split, self.root / f"{name}.txt") for split, names in SPLIT_FOLDERS.items() for name in names)
        files = {split: file for split, file in candidates if file.is_file()}
        texts = [line for file in files.values() for line in read_text(file).splitlines() if line.strip()]
        suffixes = image_suffixes(self.channels or RGB)
        are_images = all(PurePath(line.strip()).suffix.lower() in suffixes for line in texts)
        return {split: self._listed_images(file) for split, file in files.items()} if texts and are_images else {}

    def _in_folder(self) -> list[Path]:
        folder = self.root / "images"
        return image_files(folder if folder.is_dir() else self.root, self.channels)

    def _listed_images(self, file: Path) -> list[Path]:
        """The images listed in a text file."""
        self.lists.append(file)
        paths: dict[Path, None] = {}
        for row, line in enumerate(read_text(file).splitlines(), 1):
            if line.strip():
                path = self._listed(line.strip(), file)
                self.faults.check_place(f"{file}, line {row}", path, self.root)
                paths[path] = None
        return list(paths)

    def _listed(self, line: str, file: Path) -> Path:
        """Resolves a line of a list, relative to the list, to `path` in data.yaml or to root.

        Paths of another machine are searched below root, without their first folders.
        """
        folders = list(dict.fromkeys([file.parent, self.base, self.root]))
        for folder in folders:
            if name := find_file(folder, line.removeprefix("./"), self.faults.outside_paths):
                return folder / name
        written = file.parent / line.removeprefix("./")
        for form in name_forms(line.replace("\\", "/")):
            parts = PurePath(form).parts
            if any((folder / form).parent.is_dir() for folder in folders):
                break  # the folder is there, and the file is missing
            for start in range(1, len(parts) - 1):
                if self.root.joinpath(*parts[start:-1]).is_dir():
                    return self.root / (find_file(self.root, "/".join(parts[start:])) or "/".join(parts[start:]))
            if find_file(self.root, parts[-1]):
                return self.root / parts[-1]
        return written


_TextFileRule = Callable[
    [Path, PurePath], Path
]  # the text file, from the data set's folder and the image's path below it


class TextFiles:
    """The text file of each image.

    listing: the image files; each split has one rule for the location of text files.
    """

    def __init__(self, listing: Listing) -> None:
        self._folders = [(folder, absolute(folder)) for folder in (listing.root, listing.base)]
        self._existing = {key(absolute(path)): path for path in files_below(listing.root, (".txt",))}
        self._rules = {split: self._rule(paths) for split, paths in listing.images.items()}

    def of(self, image: Path, split: str) -> Path:
        """The text file of an image, existing or not."""
        file = self._rules.get(split, _in_labels)(*self._parts(image))
        return self._existing.get(key(absolute(file)), file)

    def all(self) -> set[Path]:
        """All text files below the data set's folder."""
        return set(map(absolute, self._existing.values()))

    def _rule(self, images: Sequence[Path]) -> _TextFileRule:
        """The first rule that finds the most text files."""
        parts = [self._parts(image) for image in images]
        counts = []
        for rule in _RULES:
            files = (rule(*folder_and_name) for folder_and_name in parts)
            counts.append(sum(key(absolute(file)) in self._existing or file.is_file() for file in files))
            if counts[-1] == len(images):
                break
        return _RULES[counts.index(max(counts))]

    def _parts(self, image: Path) -> tuple[Path, PurePath]:
        """The data set's folder and the path of an image below it."""
        path = absolute(image)
        for folder, normal in self._folders:
            if path.is_relative_to(normal):
                return folder, path.relative_to(normal)
        return Path(path.anchor), path.relative_to(path.anchor)


def _in_labels(root: Path, image: PurePath) -> Path:
    """images/train/a.jpg -> labels/train/a.txt; without a folder `images`, beside the image."""
    parts = list(image.with_suffix(".txt").parts)
    if "images" in parts[:-1]:
        parts[len(parts) - 2 - parts[-2::-1].index("images")] = "labels"
    return root.joinpath(*parts)


def _labels_above(root: Path, image: PurePath) -> Path:
    """a.jpg -> ../labels/a.txt, for a source that is the folder `images`"""
    folder = absolute(root)
    return (folder.parent / "labels" if folder.name == "images" else root) / image.with_suffix(".txt")


_RULES: tuple[_TextFileRule, ...] = (
    _in_labels,
    lambda root, image: root / image.with_suffix(".txt"),  # train/a.jpg -> train/a.txt
    lambda root, image: root / "labels" / image.with_suffix(".txt"),  # train/a.jpg -> labels/train/a.txt
    lambda root, image: root / image.parent / "labels" / f"{image.stem}.txt",  # train/a.jpg -> train/labels/a.txt
    _labels_above,
)
