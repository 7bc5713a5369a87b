"""Reads list files: one line per pair, with the common name or the paths of image and label."""

import math
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from densevit.channels import Channels
from densevit.data.datasets.image_files import image_suffixes
from densevit.data.datasets.pair_paths import PairPaths, list_files, path_pattern
from densevit.data.io.text_files import read_text
from densevit.data.outside_paths import check_listed_path
from densevit.errors import DataError, UnreadableFileError, listed

_NUMBER = re.compile(r"\d+(\.\d*)?")
_OUTER = 2  # candidates outside of subfolders: the path relative to root, and to the folder of images or labels


class ListedPairs:
    """Pairs from the lines of a list file: each line is a name, or the paths of an image and its label."""

    entries: Sequence[Any]  # (line number, name or image path, label path or None, focal length)

    def __init__(self, root: Path, paths: PairPaths, outside_paths: bool, channels: Channels) -> None:
        assert paths.list_file is not None
        self.root, self.paths, self.file, self.outside_paths = root, paths, root / paths.list_file, outside_paths
        try:
            lines = [line.strip() for line in read_text(self.file).splitlines()]
        except DataError as error:
            raise DataError(f"data.list_file: {error}") from None
        entries = [(number, *entry_of(line, paths)) for number, line in enumerate(lines, 1) if line]
        self.unlabelled = [name for _, name, label, _ in entries if label is not None and label == paths.no_label]
        self.entries = [entry for entry in entries if entry[2] is None or entry[2] != paths.no_label]
        if not self.entries:
            raise DataError(f"data.list_file: {self.file} is empty; expected one image name per line.")
        by_name = any(entry[2] is None for entry in self.entries)
        self._suffixes = image_suffixes(channels)
        self.images = list_files(root, paths.images, self._suffixes, "images", channels) if by_name else {}
        self.labels = list_files(root, paths.labels, paths.suffixes, "labels") if by_name else {}
        self._image_folders, self._label_folders = _base_folders(root, paths.images), _base_folders(root, paths.labels)
        self._seen: dict[str, int] = {}

    def pair(self, entry: tuple[int, str, str | None, float]) -> tuple[str, str, str, float]:
        """Returns the name, image, label and focal length of a line. Raises UnreadableFileError if a file is missing,
        and DataError for a name that occurs in an earlier line."""
        number, name, label, focal = entry
        where = f"{self.file}, line {number}"
        if label is None:
            name = name if name in self.images else _without(name, self._suffixes)
            image = self.images.get(name) or path_pattern(self.paths.images, name)
            label = self.labels.get(name) or path_pattern(self.paths.labels, name)
            missing = [path for path, files in ((image, self.images), (label, self.labels)) if name not in files]
        else:
            image = _resolved(where, self.root, self._image_folders, name)
            label = _resolved(where, self.root, self._label_folders, label)
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
        return name, image, label, focal


def entry_of(line: str, paths: PairPaths) -> tuple[str, str | None, float]:
    """Parses a line of a list file: (image, label, focal length), or (name, None, nan). The focal length is nan if the
    line has none. A name may contain spaces."""
    parts = line.split("\t") if "\t" in line else line.split()
    focal = float(parts.pop()) if len(parts) == 3 and _NUMBER.fullmatch(parts[2]) else math.nan
    if len(parts) == 2 and (parts[1].lower().endswith(tuple(paths.suffixes)) or parts[1] == paths.no_label):
        return parts[0].strip(), parts[1].strip(), focal
    return line, None, math.nan


def _base_folders(root: Path, folder: str) -> list[str]:
    """Returns the folders, relative to root, to which paths of a list file may be relative."""
    if "*" in folder or not (root / folder).is_dir():
        return [""]
    inside = sorted(entry.name for entry in os.scandir(root / folder) if entry.is_dir())
    return ["", *(os.path.normpath(os.path.join(folder, name)) for name in ("", *inside))]


def _resolved(where: str, root: Path, folders: Sequence[str], path: str) -> str:
    """Returns a path of a list file relative to root; a leading slash, as in some public lists, means root. where: the
    file and its line."""
    if (root / path).exists():
        return path
    path = path.lstrip("/")
    candidates = [os.path.join(folder, path) for folder in folders]
    existing = [candidate for candidate in candidates if os.path.exists(os.path.join(root, candidate))]
    if len(existing) > 1 and existing[0] not in candidates[:_OUTER]:
        raise DataError(
            f"{where}: {path} is in several folders: {listed(existing, 3)}. Expected the path below data.root or "
            "data.images, with its folder."
        )
    return existing[0] if existing else path


def _without(path: str, suffixes: Sequence[str]) -> str:
    stem, suffix = os.path.splitext(path)
    return stem if suffix.lower() in suffixes else path
