"""Paths of the images and labels of a split, and the files that they match."""

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from densevit.channels import RGB, Channels
from densevit.data.datasets.division import is_divided
from densevit.data.datasets.image_files import first_files
from densevit.data.datasets.split_folders import matches, path_exists, spellings, split_path
from densevit.data.io.folders import files_below
from densevit.data.io.label_files import JPEG, LOSSY
from densevit.errors import DataError, counted

LABELS = (".png", ".bmp", ".tif", ".tiff")


@dataclass(frozen=True)
class PairPaths:
    """Paths of the images of a split and of their labels, relative to a data set's root.

    images, labels, list_file: {split} is replaced by the split's name. Without a `*`, images and labels are folders,
    and files of the same name (relative to the folder, without suffix) are a pair. With stars, they are patterns, and
    the name is the text that the stars match; a star matches within one folder. A line of the list file is such a
    name, or the paths of an image and its label, with an optional focal length. These paths are relative to
    root, to the folders images and labels, or to their subfolders.
    splits: the names of splits on disk. suffixes: suffixes of label files. no_label: the word that stands for a missing
    label in a list file.
    """

    images: str
    labels: str
    list_file: str | None = None
    splits: Mapping[str, str] | None = None
    suffixes: Sequence[str] = LABELS
    no_label: str | None = None

    @property
    def patterns(self) -> list[str]:
        """The paths that are set, with {split}."""
        return [pattern for pattern in (self.images, self.labels, self.list_file) if pattern is not None]

    def has_split(self, root: Path, split: str) -> bool:
        """Whether a path contains {split}, and either `splits` names the split or all such paths exist for it."""
        patterns = [pattern for pattern in self.patterns if "{split}" in pattern]
        if not patterns or split in (self.splits or {}):
            return bool(patterns)
        name = _spelled(root, split, patterns, {})
        return all(path_exists(root, split_path(pattern, name)) for pattern in patterns)

    def is_divided(self, root: Path, split: str, val_share: float | None, needs_val: bool = True) -> bool:
        """Whether a split is a part of the images of `train` (see `division.is_divided`).

        needs_val: whether paths with {split} are divided only if val_share is given; without it, a missing val is an
        error.
        """
        val = root / self.images if self.has_split(root, "val") else None
        without_val = needs_val and val_share is None and any("{split}" in pattern for pattern in self.patterns)
        return is_divided(split, val_share, val) and not without_val

    def for_split(self, root: Path, split: str) -> "PairPaths":
        """Replaces {split} by the split's name on disk."""
        name = _spelled(root, split, self.patterns, self.splits or {})
        images, labels, *lists = (split_path(pattern, name) for pattern in self.patterns)
        return replace(self, images=images, labels=labels, list_file=lists[0] if lists else None)

    def label_files(self, root: Path, split: str) -> list[Path]:
        """Returns the sorted files in the label folder of a split; empty unless it and the image folder exist."""
        paths = self.for_split(root, split)
        both_exist = (root / paths.images).is_dir() and (root / paths.labels).is_dir()
        return files_below(root / paths.labels) if both_exist else []


def _spelled(root: Path, split: str, patterns: Sequence[str], splits: Mapping[str, str]) -> str:
    """Returns the split's name on disk: from `splits`, or the first spelling for which all paths exist."""
    if split in splits:
        return splits[split]
    names = spellings(split)
    exist = (name for name in names if all(path_exists(root, split_path(pattern, name)) for pattern in patterns))
    return next(exist, names[0])


def list_files(
    root: Path, pattern: str, suffixes: Sequence[str], option: str, channels: Channels = RGB
) -> dict[str, str]:
    """Returns {name: path relative to root} of the files in a folder or of a pattern.

    option: the option that names the pattern, for messages. channels: the images' channels.
    """
    return files_by_name(root, pattern, named_paths(root, pattern, option, channels), suffixes, option)


def named_paths(root: Path, pattern: str, option: str, channels: Channels = RGB) -> list[tuple[str, str]]:
    """Returns (name, path relative to root) of all files in a folder or of a pattern; if each channel is in its own
    file, only of the first channel's files."""
    if "*" in pattern:
        regex = re.compile("([^/]*)".join(map(re.escape, pattern.split("*"))))
        paths = first_files(matches(root, pattern), channels)
        return [("/".join(match.groups()), path) for path in paths if (match := regex.fullmatch(path))]
    if not (root / pattern).is_dir():
        raise DataError(
            f"There is no folder {root / pattern}. Name the {option} with data.{option}, relative to data.root, as "
            f"a folder ({option}/{{split}}) or a pattern ({option}/{{split}}/*/*.png), or another data.val_split."
        )
    relative = first_files((os.path.relpath(path, root / pattern) for path in files_below(root / pattern)), channels)
    return [(os.path.splitext(path)[0], os.path.join(pattern, path)) for path in relative]


def files_by_name(
    root: Path, pattern: str, paths: Sequence[tuple[str, str]], suffixes: Sequence[str], option: str
) -> dict[str, str]:
    """Returns {name: path}; of a folder, only files with these suffixes. Raises DataError if there are none, and if two
    files have the same name."""
    usable = [(name, path) for name, path in paths if "*" in pattern or path.lower().endswith(tuple(suffixes))]
    if not usable:
        jpeg = sum(path.lower().endswith(JPEG) for _, path in paths)
        why = f" Its {counted(jpeg, 'JPEG file')} cannot be labels: {LOSSY}" if jpeg else ""
        raise DataError(f"data.{option}: {root / pattern} holds no files ({', '.join(suffixes)}).{why}")
    by_name: dict[str, str] = {}
    for name, path in sorted(usable):
        if name in by_name:
            raise DataError(
                f"{root / by_name[name]} and {root / path} have the same name; names in data.{option} must differ."
            )
        by_name[name] = path
    return by_name


def path_pattern(pattern: str, name: str) -> str:
    """Returns the path, or a pattern of it, that a file of this name should have, for messages."""
    full = pattern if "*" in pattern else f"{pattern}/*"
    return full.replace("*", name) if full.count("*") == 1 else full
