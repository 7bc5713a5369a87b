"""The image files of data sets: their suffixes, and which files of a folder are images."""

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from densevit.channels import RGB, Channels
from densevit.data.io.channel_files import IMAGES, channel_paths
from densevit.data.io.channel_files import SUFFIXES as CHANNEL_FILES
from densevit.data.io.file_lookup import find_by_base_name, find_file, local_names, name_forms
from densevit.data.io.folders import files_below
from densevit.data.outside_paths import FIX, is_outside
from densevit.errors import DataError, counted, listed, warn_once

UNREAD = (
    *(".heic", ".heif", ".avif", ".jxl", ".jp2", ".gif", ".ppm", ".pgm", ".dng", ".cr2", ".nef", ".arw"),
    *(".tmp", ".part", ".partial", ".crdownload"),  # unfinished copies
)
"""Suffixes of images that data sets do not read."""


def image_suffixes(channels: Channels, images: tuple[str, ...] = IMAGES) -> tuple[str, ...]:
    """Returns the suffixes of images of these channels. images: those of RGB images."""
    return images if channels.is_rgb else (*images, *CHANNEL_FILES)


def companions(paths: Iterable[str], channels: Channels) -> set[str]:
    """Returns the files of all channels but the first; empty unless each channel is in its own file."""
    if not channels.files:
        return set()
    images = (path for path in paths if os.path.splitext(path)[0].endswith(channels.files[0]))
    return {file for path in images for file in channel_paths(path, channels)[1:]}


def first_files(paths: Iterable[str], channels: Channels) -> list[str]:
    """Returns the images among files; if each channel is in its own file, the first channel's files."""
    paths, first = list(paths), "".join(channels.files[:1])
    companion_files = companions(paths, channels)
    return [path for path in paths if os.path.splitext(path)[0].endswith(first) and path not in companion_files]


def images_below(folder: Path, root: Path, channels: Channels = RGB) -> tuple[list[str], list[str]]:
    """Returns the sorted paths of images below a folder, relative to root: images in formats that are read, and in
    formats that are not read and have no copy in a readable one."""
    suffixes = image_suffixes(channels)
    paths = sorted(os.path.relpath(path, root) for path in files_below(folder, (*suffixes, *UNREAD)))
    images = [path for path in paths if path.lower().endswith(suffixes)]
    names = {os.path.splitext(path)[0] for path in images}
    unread = [path for path in paths if path.lower().endswith(UNREAD) and os.path.splitext(path)[0] not in names]
    return first_files(images, channels), unread


def warn_of_unread(folder: Path, paths: Sequence[str], used: int) -> None:
    """Warns about images of formats that are not read, if any. used: the number of images that are read."""
    if paths:
        warn_once(
            f"{folder}: {counted(used + len(paths), 'image')} found: {used:,} used, {len(paths):,} left out "
            f"({len(paths):,} of a format that is not read: {listed(paths, 3)}). Convert them to JPEG or PNG."
        )


def existing_files(
    folder: Path, names: Sequence[str], annotations: Path, outside_paths: bool = False
) -> tuple[list[str], list[int]]:
    """Returns the files' names, relative to the folder: as written, as `find_file` finds them, or of URLs and paths out
    of the folder as `find_by_base_name` does, with a warning; and the indices of files that do not exist. Warns of
    images beside them that no name refers to, in formats that are not read.

    outside_paths: whether a name may lead out of the folder. Raises DataError for other names out of it, and for two
    names of one file. Lists each folder once, which is much faster than testing each file.
    """
    entries: dict[str, set[str]] = {}
    file_names, missing = list(names), []
    by_base_name: dict[str, str] = {}  # name by file
    for i, name in enumerate(names):
        file, (parent, _, base) = None, name.rpartition("/")
        if outside_paths or not is_outside(name, folder):
            if parent not in entries:
                path = os.path.join(folder, parent)
                entries[parent] = {entry.name for entry in os.scandir(path)} if os.path.isdir(path) else set()
            # Files are tested individually too, for file systems that ignore case.
            if base in entries[parent] or os.path.exists(os.path.join(folder, name)):
                continue
            file = find_file(folder, name, outside_paths)
        if file is None and (file := find_by_base_name(folder, name)) and by_base_name.setdefault(file, name) != name:
            raise DataError(
                f"{annotations}: {by_base_name[file]!r} and {name!r} are both {file} in {folder}. Fix: give the images "
                "different names, there and in the json."
            )
        if file is None and not outside_paths and any(is_outside(form, folder) for form in name_forms(name)):
            raise DataError(
                f"{annotations}: the file_name {name!r} is outside of {folder}, and no file of its base name is in it. "
                f"{FIX}"
            )
        if file is None:
            missing.append(i)
        file_names[i] = file or next((local for local in local_names(name) if "/" not in local), name)
    for file, name in [*by_base_name.items()][:1]:
        warn_once(
            f"{folder}: {len(by_base_name):,} of {counted(len(names), 'file_name')} in the json are URLs or lead out "
            f"of this folder, and are read as its files of the same base name, such as {file} for {name!r}."
        )
    stems = {os.path.splitext(name)[0] for name in names}
    paths = (os.path.join(parent, file) for parent, files in entries.items() for file in sorted(files))
    unread = [path for path in paths if path.lower().endswith(UNREAD) and os.path.splitext(path)[0] not in stems]
    warn_of_unread(folder, unread, len(names) - len(missing))
    return file_names, missing
