"""Pairs images with label files by name or by a list file."""

import os
import re
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from densevit.channels import RGB, Channels
from densevit.data.datasets.examination import Problem, listed
from densevit.data.datasets.image_files import IMAGES, UNREAD, first_files, image_suffixes, unread_images
from densevit.data.datasets.splits import matches, path_exists, spellings
from densevit.data.io.folders import files_below
from densevit.data.io.text_files import read_text
from densevit.data.outside_paths import check_listed_path
from densevit.errors import DataError

LABELS = (".png", ".bmp", ".tif", ".tiff")
_NUMBER = re.compile(r"\d+(\.\d*)?")
_OUTER = 2  # of the places of paths in a list: root, and the folder of images or labels


@dataclass(frozen=True)
class Pairs:
    """N images with their labels, as arrays, which forked workers share with their parent."""

    names: np.ndarray  # (N,) UTF-8 bytes: the common name of image and label, "aachen/aachen_000000_000019"
    images: np.ndarray  # (N,) UTF-8 bytes, paths relative to the root
    labels: np.ndarray  # (N,)
    left_out: np.ndarray  # (M,) names of images that the list file marks as unlabelled

    @classmethod
    def of(cls, rows: Sequence[tuple[str, str, str]], left_out: Iterable[str] = ()) -> "Pairs":
        """Builds pairs from rows of (name, image, label)."""
        columns = (*zip(*rows, strict=True), left_out)
        names, images, labels, lone = (np.array([os.fsencode(t) for t in texts], np.bytes_) for texts in columns)
        return cls(names, images, labels, lone)

    def subset(self, chosen: np.ndarray) -> "Pairs":
        """Returns the images for which `chosen`, (N,) bool, is True."""
        return Pairs(self.names[chosen], self.images[chosen], self.labels[chosen], self.left_out)

    def __len__(self) -> int:
        return len(self.names)


def find_pairs(
    root: Path,
    split: str,
    images: str,
    labels: str,
    list_file: str | None = None,
    splits: Mapping[str, str] | None = None,
    limit: int | None = None,
    suffixes: Sequence[str] = LABELS,
    no_label: str | None = None,
    outside_paths: bool = False,
    channels: Channels = RGB,
) -> Generator[Problem, None, Pairs]:
    """Reads the images of a split with their labels, in the order of their names or of the list file.

    images, labels, list_file: relative to root, {split} is replaced by the split's name. Without a `*`, images and
    labels are folders, and files of the same name (relative to the folder, without suffix) are a pair. With stars,
    they are patterns, and the name is the text that the stars match; a star matches within one folder. A line of the
    list file is such a name, or the paths of an image and its label, with an optional number (a focal length). These
    paths are relative to root, to the folders images and labels, or to folders in them.
    suffixes: the suffixes of label files. no_label: the word for a missing label in place of its path.
    outside_paths: whether paths of the list file may lead out of root and of the folders images and labels. channels:
    those of the images; the files of the others than the first channel are no images.

    Yields the images that lack a label or are of a format that is not read, the labels that lack an image, and the
    lines of the list file that name missing files or a name again; they are left out. A list file chooses: files that
    it does not name are not reported. Raises DataError if no files are found.
    """
    given = [pattern for pattern in (images, labels, list_file) if pattern is not None]
    name = _spelled(root, split, given, splits or {})
    images, labels, *_ = (pattern.replace("{split}", name) for pattern in given)
    lone: list[str] = []
    if list_file is None:
        there, label_paths = _paths(root, images, "images", channels), _paths(root, labels, "labels")
        by_name = _by_name(root, images, there, image_suffixes(channels), "images")
        files = _by_name(root, labels, label_paths, suffixes, "labels")
        unread = {name: path for name, path in there if name not in by_name and path.lower().endswith(UNREAD)}
        others = {name: path for name, path in label_paths if path.lower().endswith((*IMAGES, *UNREAD))}
        yield from _lone("image", "label", by_name, files, _form(labels), others)
        yield from _lone("label", "image", files, by_name, _form(images), unread)
        rows = [(name, path, files[name]) for name, path in sorted(by_name.items()) if name in files]
        yield from unread_images(root / images, sorted(unread.values()), len(by_name))
    else:
        file = root / list_file.replace("{split}", name)
        rows, lone = yield from _from_list(root, file, images, labels, suffixes, no_label, outside_paths, channels)
    if not rows:
        raise DataError(f"{root / images} has no image with a label.")
    return Pairs.of(rows[:limit], lone)


def unlisted_images(
    root: Path,
    images: str,
    list_file: str | None,
    suffixes: Sequence[str] = LABELS,
    no_label: str | None = None,
    channels: Channels = RGB,
) -> Generator[Problem, None, None]:
    """Yields a note about the images of a folder of all splits that none of the lists names. Options as in
    `find_pairs`."""
    if list_file is None or "{split}" in images:
        return
    lists = matches(root, list_file.replace("{split}", "*"))
    lines = [line.strip() for path in lists for line in read_text(root / path).splitlines() if line.strip()]
    image = image_suffixes(channels)
    names = {_without(_entry(line, suffixes, no_label)[0].lstrip("/"), image) for line in lines}
    found = list_files(root, images, image, "images", channels).items()
    lone = [path for name, path in found if names.isdisjoint(_name_forms(name, _without(path, image)))]
    title, fix = "images in no list", f"A list chooses; if they are meant to be used, add them to {list_file}."
    yield Problem(title, title, lone, fix, of=len(found), severity="note")


def _name_forms(name: str, path: str) -> set[str]:
    """Returns the texts with which a line of a list may name an image: its name, and its path without suffix below any
    of its folders."""
    parts = os.path.normpath(path).split(os.sep)
    return {name, *("/".join(parts[start:]) for start in range(len(parts)))}


def has_split(
    root: Path,
    split: str,
    images: str,
    labels: str,
    list_file: str | None = None,
    splits: Mapping[str, str] | None = None,
) -> bool:
    """Whether the paths of `find_pairs` have {split} and exist for a split, or `splits` names it."""
    given = [pattern for pattern in (images, labels, list_file) if pattern is not None and "{split}" in pattern]
    if not given or split in (splits or {}):
        return bool(given)
    name = _spelled(root, split, given, {})
    return all(path_exists(root, pattern.replace("{split}", name)) for pattern in given)


def _spelled(root: Path, split: str, patterns: Sequence[str], splits: Mapping[str, str]) -> str:
    """Returns the split's name on disk: from `splits`, or the first spelling for which all paths exist."""
    if split in splits:
        return splits[split]
    names = spellings(split)
    for name in names:
        if all(path_exists(root, pattern.replace("{split}", name)) for pattern in patterns):
            return name
    return names[0]


def label_files(root: Path) -> list[Path]:
    """Returns the sorted files of labels/train, in any spelling of train, if the folder also has images/train."""
    folders = [(root / "images" / name, root / "labels" / name) for name in spellings("train")]
    there = next((labels for images, labels in folders if images.is_dir() and labels.is_dir()), None)
    return [] if there is None else files_below(there)


def _form(pattern: str) -> str:
    """Returns the pattern of a file's path, for messages."""
    return pattern if "*" in pattern else f"{pattern}/*"


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
            f"a folder ({option}/{{split}}) or a pattern ({option}/{{split}}/*/*.png)."
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


def _lone(
    kind: str, other: str, files: Mapping[str, str], others: Mapping[str, str], form: str, unread: Mapping[str, str]
) -> Iterator[Problem]:
    """Yields the files of one kind, if any, whose name no file of the other kind has. unread: files of the other kind
    in formats that are not read."""
    lone = sorted(files.keys() - others.keys())
    if lone:
        paths = [files[name] for name in lone]
        expected = form.replace("*", lone[0]) if form.count("*") == 1 else form
        fix = (
            f"Expected the {other} under the {kind}'s name, as {expected}. To use only some of the files, name these "
            "in a list (data.list_file)."
        )
        if wrong := [unread[name] for name in lone if name in unread]:
            fix = f"{wrong[0]} is of a format that is not read: convert it to PNG. {fix}"
        message = f"{len(lone)} of {len(files)} {kind}s have no {other}:{_some(paths)}\n{fix}"
        yield Problem(message, f"{kind}s without {other}", paths, fix, of=len(files))


def _from_list(
    root: Path,
    file: Path,
    images: str,
    labels: str,
    suffixes: Sequence[str],
    no_label: str | None,
    outside_paths: bool,
    channels: Channels,
) -> Generator[Problem, None, tuple[list[tuple[str, str, str]], list[str]]]:
    """Reads (name, image, label) of each line with a label, and the images of the other lines."""
    try:
        lines = [line.strip() for line in read_text(file).splitlines()]
    except DataError as error:
        raise DataError(f"data.list_file: {error}") from None
    entries = [(number, _entry(line, suffixes, no_label)) for number, line in enumerate(lines, 1) if line]
    lone = [name for _, (name, label) in entries if label is not None and label == no_label]
    entries = [(number, entry) for number, entry in entries if entry[1] is None or entry[1] != no_label]
    if not entries:
        raise DataError(f"data.list_file: {file} is empty; expected one image name per line.")
    by_name = any(label is None for _, (_, label) in entries)
    of_image = image_suffixes(channels)
    image_files = list_files(root, images, of_image, "images", channels) if by_name else {}
    files = list_files(root, labels, suffixes, "labels") if by_name else {}
    places, label_places = _places(root, images), _places(root, labels)
    rows, missing, again = [], [], []
    seen: dict[str, int] = {}
    for number, (name, label) in entries:
        if label is None:
            name = name if name in image_files else _without(name, of_image)
            image = image_files.get(name) or _form(images).replace("*", name)
            label = files.get(name) or _form(labels).replace("*", name)
            here = name in image_files, name in files
        else:
            where = f"{file}, line {number}"
            image, label = _resolved(where, root, places, name), _resolved(where, root, label_places, label)
            for path, folder in () if outside_paths else ((image, images), (label, labels)):
                check_listed_path(where, path, root, folder)
            here = (root / image).is_file(), (root / label).is_file()
            name = _without(image, of_image)
        if name in seen:
            again.append(f"{file}, line {number}: {name} occurs already in line {seen[name]}.")
            continue
        seen[name] = number
        missing += [path for path, there in zip((image, label), here, strict=True) if not there]
        if all(here):
            rows.append((name, image, label))
    if again:
        yield Problem(again[0], "names that a list has twice", again, "Remove the second lines.", of=len(entries))
    if missing:
        message = (
            f"{file} names {len(seen)} images; of these and their labels {len(missing)} files do not exist in "
            f"{root}:{_some(missing)}"
        )
        fix = "Copy them to these paths, or remove their lines."
        if wrong := [path for path in missing if (root / path).is_file()]:
            fix = f"{wrong[0]} exists, but its format is not read: convert it to JPEG or PNG."
            message += f"\n{fix}"
        yield Problem(message, f"missing files of {file.name}", missing, fix)
    return rows, lone


def _entry(line: str, suffixes: Sequence[str], no_label: str | None) -> tuple[str, str | None]:
    """Returns a line's name, or its image and label; a name may contain spaces."""
    parts = line.split("\t") if "\t" in line else line.split()
    if len(parts) == 3 and _NUMBER.fullmatch(parts[2]):
        parts.pop()
    if len(parts) == 2 and (parts[1].lower().endswith(tuple(suffixes)) or parts[1] == no_label):
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


def _some(paths: Sequence[str]) -> str:
    return "".join(f"\n  {path}" for path in paths[:5]) + ("\n  ..." if len(paths) > 5 else "")
