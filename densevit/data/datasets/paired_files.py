"""Pairs images with label files by name or by a list file."""

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from densevit.channels import RGB, Channels
from densevit.data.datasets.file_checks import OnError
from densevit.data.datasets.image_files import UNREAD, first_files, image_suffixes, warn_of_unread
from densevit.data.datasets.splits import matches, path_exists, spellings
from densevit.data.io.channel_files import IMAGES
from densevit.data.io.folders import files_below
from densevit.data.io.text_files import read_text
from densevit.data.outside_paths import check_listed_path
from densevit.errors import DataError, UnreadableFileError, listed, warn_once

LABELS = (".png", ".bmp", ".tif", ".tiff")
_NUMBER = re.compile(r"\d+(\.\d*)?")
Row = tuple[str, str, str]  # name, image, label
_OUTER = 2  # of the places of paths in a list: root, and the folder of images or labels


@dataclass(frozen=True)
class Pairs:
    """N images with their labels, as arrays, which forked workers share with their parent."""

    names: np.ndarray  # (N,) UTF-8 bytes: the common name of image and label, "aachen/aachen_000000_000019"
    images: np.ndarray  # (N,) UTF-8 bytes, paths relative to the root
    labels: np.ndarray  # (N,)
    left_out: np.ndarray  # (M,) names of images that the list file marks as unlabelled
    missing: tuple[UnreadableFileError, ...] = ()  # of names that were left out, as a file is missing
    names_count: int = 0  # with those left out

    @classmethod
    def of(cls, rows: Sequence[Row], left_out: Iterable[str] = ()) -> "Pairs":
        """Builds pairs from rows of (name, image, label)."""
        columns = (*zip(*rows, strict=True), left_out)
        names, images, labels, lone = (np.array([os.fsencode(t) for t in texts], np.bytes_) for texts in columns)
        return cls(names, images, labels, lone)

    def subset(self, chosen: np.ndarray) -> "Pairs":
        """Returns the images for which `chosen`, (N,) bool, is True."""
        return replace(self, names=self.names[chosen], images=self.images[chosen], labels=self.labels[chosen])

    def __len__(self) -> int:
        return len(self.names)


@dataclass(frozen=True)
class PairPaths:
    """Where the images of a split and their labels are, relative to a data set's root.

    images, labels, list_file: {split} is replaced by the split's name. Without a `*`, images and labels are folders,
    and files of the same name (relative to the folder, without suffix) are a pair. With stars, they are patterns, and
    the name is the text that the stars match; a star matches within one folder. A line of the list file is such a
    name, or the paths of an image and its label, with an optional number (a focal length). These paths are relative to
    root, to the folders images and labels, or to folders in them.
    splits: the names of splits on disk. suffixes: those of label files. no_label: the word for a missing label in place
    of its path.
    """

    images: str
    labels: str
    list_file: str | None = None
    splits: Mapping[str, str] | None = None
    suffixes: Sequence[str] = LABELS
    no_label: str | None = None

    @property
    def given(self) -> list[str]:
        """The paths."""
        return [pattern for pattern in (self.images, self.labels, self.list_file) if pattern is not None]

    def has_split(self, root: Path, split: str) -> bool:
        """Whether the paths have {split} and exist for a split, or `splits` names it."""
        patterns = [pattern for pattern in self.given if "{split}" in pattern]
        if not patterns or split in (self.splits or {}):
            return bool(patterns)
        name = _spelled(root, split, patterns, {})
        return all(path_exists(root, pattern.replace("{split}", name)) for pattern in patterns)

    def of_split(self, root: Path, split: str) -> "PairPaths":
        """Returns the paths with the split's name on disk."""
        name = _spelled(root, split, self.given, self.splits or {})
        images, labels, *lists = (pattern.replace("{split}", name) for pattern in self.given)
        return replace(self, images=images, labels=labels, list_file=lists[0] if lists else None)

    def label_files(self, root: Path, split: str) -> list[Path]:
        """Returns the sorted files in the label folder of a split that also has a folder of images."""
        paths = self.of_split(root, split)
        is_there = (root / paths.images).is_dir() and (root / paths.labels).is_dir()
        return files_below(root / paths.labels) if is_there else []


def find_pairs(
    root: Path,
    split: str,
    paths: PairPaths,
    limit: int | None = None,
    outside_paths: bool = False,
    channels: Channels = RGB,
    on_error: OnError = "raise",
) -> Pairs:
    """Reads the images of a split with their labels, in the order of their names or of the list file.

    outside_paths: whether paths of the list file may lead out of root and of the folders images and labels. channels:
    those of the images; the files of the others than the first channel are no images.

    Raises DataError for an image without a label, a label without an image, or a line of the list file that names a
    missing file or a name again, and if no files are found. on_error: "skip" leaves out pairs without a file.
    A list file chooses: files that it does not name are not reported.
    """
    paths = paths.of_split(root, split)
    listing = Folders(root, paths, channels) if paths.list_file is None else Lines(root, paths, outside_paths, channels)
    rows: list[Row] = []
    missing: list[UnreadableFileError] = []
    for entry in listing.entries:
        try:
            rows.append(listing.pair(entry))
        except UnreadableFileError as error:
            missing.append(error)
    if missing and (on_error == "raise" or not rows):
        more = f" Of {len(listing.entries):,} names, {len(missing):,} lack a file; densevit doctor counts them by kind."
        raise UnreadableFileError(f"{missing[0]}{more if len(missing) > 1 else ''}", missing[0].rule)
    if not rows:
        raise DataError(f"{root / paths.images} has no image with a label.")
    if missing:
        warn_once(
            f"{root}: {len(missing):,} of {len(listing.entries):,} images or labels lack a file and are left out "
            f"(data.on_error: skip): {missing[0]}"
        )
    return replace(Pairs.of(rows[:limit], listing.unlabelled), missing=tuple(missing), names_count=len(listing.entries))


class Folders:
    """Images and labels that are paired by their names."""

    entries: Sequence[Any]  # names
    unlabelled: Sequence[str] = ()

    def __init__(self, root: Path, paths: PairPaths, channels: Channels) -> None:
        there, label_paths = _paths(root, paths.images, "images", channels), _paths(root, paths.labels, "labels")
        self.images = _by_name(root, paths.images, there, image_suffixes(channels), "images")
        self.labels = _by_name(root, paths.labels, label_paths, paths.suffixes, "labels")
        self.paths, self.entries = paths, sorted(self.images.keys() | self.labels.keys())
        unread = sorted(path for name, path in there if name not in self.images and path.lower().endswith(UNREAD))
        warn_of_unread(root / paths.images, unread, len(self.images))

    def pair(self, name: str) -> Row:
        """Returns a pair. Raises UnreadableFileError if one of its files is missing."""
        image, label = self.images.get(name), self.labels.get(name)
        if image is not None and label is not None:
            return name, image, label
        kind, other, form = (
            ("label", "image", self.paths.images) if image is None else ("image", "label", self.paths.labels)
        )
        raise UnreadableFileError(
            f"{image or label} has no {other}. Expected the {other} under the {kind}'s name, as {_path_of(form, name)},"
            f" in a format that is read ({', '.join(IMAGES if other == 'image' else self.paths.suffixes)}). To use "
            "only some of the files, name these in a list (data.list_file).",
            f"{kind}s without {other}",
        )


class Lines:
    """The lines of a list file, each with a name, or with the paths of an image and its label."""

    entries: Sequence[Any]  # the number of a line, its name or image, and its label or None

    def __init__(self, root: Path, paths: PairPaths, outside_paths: bool, channels: Channels) -> None:
        assert paths.list_file is not None
        self.root, self.paths, self.file, self.outside_paths = root, paths, root / paths.list_file, outside_paths
        try:
            lines = [line.strip() for line in read_text(self.file).splitlines()]
        except DataError as error:
            raise DataError(f"data.list_file: {error}") from None
        entries = [(number, *entry_of(line, paths)) for number, line in enumerate(lines, 1) if line]
        self.unlabelled = [name for _, name, label in entries if label is not None and label == paths.no_label]
        self.entries = [entry for entry in entries if entry[2] is None or entry[2] != paths.no_label]
        if not self.entries:
            raise DataError(f"data.list_file: {self.file} is empty; expected one image name per line.")
        by_name = any(label is None for _, _, label in self.entries)
        self._suffixes = image_suffixes(channels)
        self.images = list_files(root, paths.images, self._suffixes, "images", channels) if by_name else {}
        self.labels = list_files(root, paths.labels, paths.suffixes, "labels") if by_name else {}
        self._places, self._label_places = _places(root, paths.images), _places(root, paths.labels)
        self._seen: dict[str, int] = {}

    def pair(self, entry: tuple[int, str, str | None]) -> Row:
        """Returns the pair of a line. Raises UnreadableFileError if one of its files is missing, and DataError for a
        name that an earlier line has."""
        number, name, label = entry
        where = f"{self.file}, line {number}"
        if label is None:
            name = name if name in self.images else _without(name, self._suffixes)
            image = self.images.get(name) or _path_of(self.paths.images, name)
            label = self.labels.get(name) or _path_of(self.paths.labels, name)
            missing = [path for path, files in ((image, self.images), (label, self.labels)) if name not in files]
        else:
            image = _resolved(where, self.root, self._places, name)
            label = _resolved(where, self.root, self._label_places, label)
            for path, folder in () if self.outside_paths else ((image, self.paths.images), (label, self.paths.labels)):
                check_listed_path(where, path, self.root, folder)
            missing = [path for path in (image, label) if not (self.root / path).is_file()]
            name = _without(image, self._suffixes)
        if name in self._seen:
            raise DataError(f"{where}: {name} occurs already in line {self._seen[name]}. Fix: remove one of the lines.")
        self._seen[name] = number
        if missing:
            raise UnreadableFileError(
                f"{where}: {self.root / missing[0]} does not exist, or has a format that is not read; copy it "
                "there, or remove the line.",
                f"missing files of {self.file.name}",
            )
        return name, image, label


def _path_of(pattern: str, name: str) -> str:
    """Returns the pattern of the path of a file of this name, for messages."""
    form = pattern if "*" in pattern else f"{pattern}/*"
    return form.replace("*", name) if form.count("*") == 1 else form


def _spelled(root: Path, split: str, patterns: Sequence[str], splits: Mapping[str, str]) -> str:
    """Returns the split's name on disk: from `splits`, or the first spelling for which all paths exist."""
    if split in splits:
        return splits[split]
    names = spellings(split)
    for name in names:
        if all(path_exists(root, pattern.replace("{split}", name)) for pattern in patterns):
            return name
    return names[0]


def list_files(
    root: Path, pattern: str, suffixes: Sequence[str], option: str, channels: Channels = RGB
) -> dict[str, str]:
    """Returns {name: path relative to root} of the files in a folder or of a pattern.

    option: the option that names the pattern, for messages. channels: those of images.
    """
    return _by_name(root, pattern, _paths(root, pattern, option, channels), suffixes, option)


def _paths(root: Path, pattern: str, option: str, channels: Channels = RGB) -> list[tuple[str, str]]:
    """Returns (name, path relative to root) of all files in a folder or of a pattern; if each channel of images has a
    file, of the first channel's."""
    if "*" in pattern:
        form = re.compile("([^/]*)".join(map(re.escape, pattern.split("*"))))
        found = first_files(matches(root, pattern), channels)
        return [("/".join(match.groups()), path) for path in found if (match := form.fullmatch(path))]
    if not (root / pattern).is_dir():
        raise DataError(
            f"There is no folder {root / pattern}. Name the {option} with data.{option}, relative to data.root, as "
            f"a folder ({option}/{{split}}) or a pattern ({option}/{{split}}/*/*.png), or another data.split."
        )
    relative = first_files((os.path.relpath(path, root / pattern) for path in files_below(root / pattern)), channels)
    return [(os.path.splitext(path)[0], os.path.join(pattern, path)) for path in relative]


def _by_name(
    root: Path, pattern: str, paths: Iterable[tuple[str, str]], suffixes: Sequence[str], option: str
) -> dict[str, str]:
    """Returns {name: path}, of a folder only of files with these suffixes. Raises DataError for a name of two files."""
    found = [(name, path) for name, path in paths if "*" in pattern or path.lower().endswith(tuple(suffixes))]
    if not found:
        raise DataError(f"data.{option}: {root / pattern} holds no files ({', '.join(suffixes)}).")
    by_name: dict[str, str] = {}
    for name, path in sorted(found):
        if name in by_name:
            raise DataError(
                f"{root / by_name[name]} and {root / path} have the same name; names in data.{option} must differ."
            )
        by_name[name] = path
    return by_name


def entry_of(line: str, paths: PairPaths) -> tuple[str, str | None]:
    """Returns the name in a line of a list file, or its image and label; a name may contain spaces."""
    parts = line.split("\t") if "\t" in line else line.split()
    if len(parts) == 3 and _NUMBER.fullmatch(parts[2]):
        parts.pop()
    if len(parts) == 2 and (parts[1].lower().endswith(tuple(paths.suffixes)) or parts[1] == paths.no_label):
        return parts[0].strip(), parts[1].strip()
    return line, None


def _places(root: Path, folder: str) -> list[str]:
    """Returns the folders, relative to the root, to which paths of a list file may be relative."""
    if "*" in folder or not (root / folder).is_dir():
        return [""]
    inside = sorted(entry.name for entry in os.scandir(root / folder) if entry.is_dir())
    return ["", *(os.path.normpath(os.path.join(folder, name)) for name in ("", *inside))]


def _resolved(where: str, root: Path, places: Sequence[str], path: str) -> str:
    """Returns a path of a list file relative to root; in public lists, a slash at the start means the root. where: the
    file and its line."""
    if (root / path).exists():
        return path
    path = path.lstrip("/")
    candidates = [os.path.join(place, path) for place in places]
    there = [one for one in candidates if os.path.exists(os.path.join(root, one))]
    if len(there) > 1 and there[0] not in candidates[:_OUTER]:
        raise DataError(
            f"{where}: {path} is in several folders: {listed(there, 3)}. Expected the path below data.root or "
            "data.images, with its folder."
        )
    return there[0] if there else path


def _without(path: str, suffixes: Sequence[str]) -> str:
    stem, suffix = os.path.splitext(path)
    return stem if suffix.lower() in suffixes else path
