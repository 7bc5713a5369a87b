"""The image files of data sets: their suffixes, and which files of a folder are images."""

import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from densevit.channels import RGB, Channels
from densevit.data.datasets.examination import Problem
from densevit.data.datasets.inventory import Inventory
from densevit.data.io.channel_files import SUFFIXES as CHANNEL_FILES
from densevit.data.io.channel_files import channel_paths
from densevit.data.io.folders import files_below

IMAGES = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".tif", ".tiff", ".webp")
UNREAD = (
    *(".heic", ".heif", ".avif", ".jxl", ".jp2", ".gif", ".ppm", ".pgm", ".dng", ".cr2", ".nef", ".arw"),
    *(".tmp", ".part", ".partial", ".crdownload"),  # unfinished copies
)
"""Suffixes of images that data sets do not read."""


def image_suffixes(channels: Channels) -> tuple[str, ...]:
    """Returns the suffixes of images of these channels."""
    return IMAGES if channels.is_rgb else (*IMAGES, *CHANNEL_FILES)


def companions(paths: Iterable[str], channels: Channels) -> set[str]:
    """Returns the files of the other channels of images of which each channel has a file. paths: may have both."""
    if not channels.files:
        return set()
    images = (path for path in paths if os.path.splitext(path)[0].endswith(channels.files[0]))
    return {file for path in images for file in channel_paths(path, channels)[1:]}


def first_files(paths: Iterable[str], channels: Channels) -> list[str]:
    """Returns the images among files: if each channel has a file, the first channel's."""
    paths, first = list(paths), "".join(channels.files[:1])
    others = companions(paths, channels)
    return [path for path in paths if os.path.splitext(path)[0].endswith(first) and path not in others]


def images_below(folder: Path, root: Path, channels: Channels = RGB) -> tuple[list[str], list[str]]:
    """Returns the sorted paths of the images below a folder, relative to root, and those of formats that are not read,
    without copies of the others."""
    suffixes = image_suffixes(channels)
    paths = sorted(os.path.relpath(path, root) for path in files_below(folder, (*suffixes, *UNREAD)))
    images = [path for path in paths if path.lower().endswith(suffixes)]
    names = {os.path.splitext(path)[0] for path in images}
    unread = [path for path in paths if path.lower().endswith(UNREAD) and os.path.splitext(path)[0] not in names]
    return first_files(images, channels), unread


def unread_images(folder: Path, paths: Sequence[str], used: int) -> Iterator[Problem]:
    """Yields a warning about images of formats that are not read, if any. used: the number of the other images."""
    inventory = Inventory("image", used)
    inventory.leave_out(title := "of a format that is not read", paths)
    if paths:
        fix = "Convert them to JPEG or PNG."
        message = f"{folder}: {inventory}. {fix}"
        yield Problem(message, f"images {title}", paths, fix, of=inventory.total, severity="warning")
