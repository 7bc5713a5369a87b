"""Finds the images that files, folders, patterns, tars, COCO jsons, URLs and lists of these name."""

import glob
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

from densevit.channels import Channels
from densevit.data.datasets.coco_json import classes_of, images_of, parse_json
from densevit.data.datasets.coco_layouts import SplitFiles
from densevit.data.datasets.image_files import companions
from densevit.data.io import videos
from densevit.data.io.tar_members import TarMember
from densevit.data.io.text_files import read_text
from densevit.errors import DataError
from densevit.inference.array_inputs import find_files, suffixes_of
from densevit.inference.downloads import SCHEMES
from densevit.paths import user_path
from densevit_batch.tar_images import find_members, without_labels

_LONGEST = 100  # largest number of characters in a file name taken from a URL


class ImageSource(NamedTuple):
    """An image of a source. image_id: the id in a COCO json. member: the field of `ImageFile`."""

    location: str
    url: str | None = None
    image_id: int | str | None = None
    member: TarMember | DataError | None = None


def listed_images(source: str, channels: Channels, stdin: str) -> Iterable[ImageSource]:
    """The images of a source, or of the sources that a text file or, for "-", the text `stdin` lists."""
    if source.lower().endswith(".txt") and (path := user_path(source)).is_file():
        return _from_lines(read_text(path).split("\n"), f"{source}: the list", channels)
    if source == "-":
        return _from_lines(stdin.split("\n"), "-: stdin", channels)
    return _from_source(source, channels)


def _from_lines(lines: Iterable[str], title: str, channels: Channels) -> Iterator[ImageSource]:
    """Yields the images of lines. A line with the suffix of an image is the path of a file, which is not looked up;
    other lines are folders, patterns, videos, tars, COCO jsons and URLs."""
    count, suffixes = 0, suffixes_of(channels)
    for text in lines:
        line = (text if count else text.removeprefix("\ufeff")).strip()
        if not line:
            continue
        count += 1
        if line.lower().endswith(suffixes) and "://" not in line and not glob.has_magic(line):
            yield ImageSource(os.path.expanduser(line))
            continue
        try:
            yield from _from_source(line, channels)
        except DataError as error:
            yield ImageSource(line, member=error)
    if not count:
        raise DataError(f"{title} names no image; expected one file, folder or pattern per line.")


def _from_source(source: str, channels: Channels) -> Iterator[ImageSource]:
    """Yields the images of a file, a folder, a pattern, a tar, a pattern of tars, a COCO json, or a URL."""
    if source.lower().startswith(SCHEMES):
        path = str(_path_of(source))
        if is_video(path):
            raise DataError(f"{source}: videos are not read from URLs. Fix: download the video and name its file.")
        yield ImageSource(path, source)
        return
    tars = glob.glob(str(user_path(source)), recursive=True) if source.lower().endswith(".tar") else []
    for file in sorted(filter(os.path.isfile, tars)) or find_files(source, channels):
        if file.lower().endswith(".tar"):
            members = without_labels(file, find_members(file, suffixes_of(channels)))
            if companions(members, channels) & members.keys():
                raise DataError(f"{file}: images with a file for each channel are not read from a tar. Fix: unpack it.")
            yield from (ImageSource(f"{file}/{name}", member=member) for name, member in members.items())
        elif file.lower().endswith(".json"):
            yield from _in_coco(Path(file))
        else:
            yield ImageSource(file)


def _in_coco(file: Path) -> Iterator[ImageSource]:
    """Returns the images of a COCO json. Looks up only the first one."""
    images = images_of(file, parse_json(file, keep_segmentations=False))
    folder = _files_of_json(file).image_folder(images.names[:1])
    rows = zip(images.names, images.rows, strict=True)
    return (ImageSource(os.path.join(folder, name), None, image_id) for name, image_id in rows)


def _files_of_json(file: Path) -> SplitFiles:
    """Returns a json without a data set's root, with the usual image folders beside it and in the parent folder."""
    name = file.stem.rpartition("_")[2].replace("-dev", "")  # image_info_test-dev2017.json: test2017
    roots, folders = (file.parent, file.parent / ".."), ("", name, f"{name}/images", f"images/{name}", "images")
    return SplitFiles(file, tuple(Path(os.path.normpath(root / folder)) for root in roots for folder in folders))


def category_ids(sources: Sequence[str]) -> dict[str, int]:
    """The ids of the categories of the COCO jsons among the sources, by name."""
    jsons = (Path(file) for name in sources if name.lower().endswith(".json") for file in find_files(name))
    return {
        c.name: c.file_id
        for file in jsons
        if (document := parse_json(file, keep_segmentations=False)).get("categories")
        for c in classes_of(file, document)
    }


def _path_of(url: str) -> Path:
    """HOST/FILE of a URL, where FILE is the last part of its path, without percent-decoding."""
    parts = urlsplit(url)
    name = parts.path.rstrip("/").rpartition("/")[2] or parts.hostname or "image"
    suffix = Path(name).suffix[:_LONGEST]
    return Path(parts.hostname or "", name.removesuffix(suffix)[:_LONGEST] + suffix)


def is_video(file: str) -> bool:
    return file.lower().endswith(videos.SUFFIXES)
