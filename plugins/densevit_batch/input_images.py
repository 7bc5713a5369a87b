"""Finds and names the images of `densevit predict`: files, folders, glob patterns, videos, tars, URLs and lists."""

import glob
import itertools
import os
import re
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from densevit.channels import RGB, Channels
from densevit.data.datasets.coco_json import classes_of, images_of, parse_json
from densevit.data.datasets.coco_layouts import SplitFiles
from densevit.data.datasets.image_files import companions
from densevit.data.io import videos
from densevit.data.io.tar_members import TarMember
from densevit.data.io.text_files import read_text
from densevit.errors import DataError
from densevit.inference.downloads import SCHEMES
from densevit.inference.image_inputs import find_files, suffixes_of
from densevit.paths import user_path
from densevit_batch.image_file import ImageFile, Video
from densevit_batch.tar_images import find_members, without_labels
from densevit_batch.video_frames import count_frames

_FRAME = re.compile(r"(.+)_\d{6,}")  # the name of a frame: its video's name, and its number
_LONGEST = 100  # largest number of characters in a file name taken from a URL
MAX_IN_FOLDER = 10_000  # for more images, output files go into subfolders
PER_SUBFOLDER = 1_000  # images per subfolder


class _Source(NamedTuple):
    """An image of a source. image_id: the id in a COCO json. member: the field of `ImageFile`."""

    location: str
    url: str | None = None
    image_id: int | str | None = None
    member: TarMember | DataError | None = None


def find_images(sources: Sequence[str], channels: Channels = RGB) -> list[ImageFile]:
    """Finds the images in files, folders (without subfolders), URLs and patterns such as `photos/**/*.jpg`, without
    duplicates.

    A video yields all its frames, a tar its images, a COCO json its `images` with their ids. A text file, and stdin as
    "-", lists sources, one per line. Images are in the order of the sources, sorted within each folder and pattern.
    URLs and listed images are not opened: names and ids come from the paths.

    channels: the model's. Raises DataError for a source without images and for streams. A line of a list without images
    becomes an unreadable file, so that all others are predicted.
    """
    unique: dict[str, _Source] = {}  # by path or URL, and id
    for source in (image for name in sources for image in _listed(name, channels)):
        unique.setdefault(f"{source.url or os.path.abspath(source.location)}\0{source.image_id!r}", source)
    other_channels = companions((source.location for source in unique.values()), channels)
    listed = [source for source in unique.values() if source.location not in other_channels]
    del unique
    clips = {  # number of frames; 1: unreadable
        index: max(1, count_frames(Path(source.location)))
        for index, source in enumerate(listed)
        if _is_video(source.location) and source == _Source(source.location)
    }
    in_subfolders = len(listed) - len(clips) + sum(clips.values()) > MAX_IN_FOLDER
    names = _output_names([source.location for source in listed], [*clips])
    images: list[ImageFile] = []
    for index, (source, name, image_id) in enumerate(zip(listed, names, _image_ids(listed), strict=True)):
        (location, url, _, member), video = source, Video() if index in clips else None
        for frame in (None,) if video is None else range(clips[index]):
            number, stem = len(images), name if frame is None else f"{name}_{frame:06}"
            path = f"{number // PER_SUBFOLDER:04}/{stem}" if in_subfolders else stem
            unique_id = stem if video else image_id
            images.append(ImageFile(location, path, unique_id, frame, url, number, video, member))
    return images


def _listed(source: str, channels: Channels) -> Iterable[_Source]:
    """The images of a source, or of the sources in stdin or a text file."""
    if source.lower().endswith(".txt") and (path := user_path(source)).is_file():
        return _from_lines(read_text(path).split("\n"), f"{source}: the list", channels)
    return _from_lines(sys.stdin, "-: stdin", channels) if source == "-" else _from_source(source, channels)


def _from_lines(lines: Iterable[str], title: str, channels: Channels) -> Iterator[_Source]:
    """Yields the images of lines. A line with the suffix of an image is the path of a file, which is not looked up;
    other lines are folders, patterns, videos, tars, COCO jsons and URLs."""
    count, suffixes = 0, suffixes_of(channels)
    for text in lines:
        line = (text if count else text.removeprefix("\ufeff")).strip()
        if not line:
            continue
        count += 1
        if line.lower().endswith(suffixes) and "://" not in line and not glob.has_magic(line):
            yield _Source(os.path.expanduser(line))
            continue
        try:
            yield from _from_source(line, channels)
        except DataError as error:
            yield _Source(line, member=error)
    if not count:
        raise DataError(f"{title} names no image; expected one file, folder or pattern per line.")


def _from_source(source: str, channels: Channels) -> Iterator[_Source]:
    """Yields the images of a file, a folder, a pattern, a tar, a pattern of tars, a COCO json, or a URL."""
    if source.lower().startswith(SCHEMES):
        path = str(_path_of(source))
        if _is_video(path):
            raise DataError(f"{source}: videos are not read from URLs. Fix: download the video and name its file.")
        yield _Source(path, source)
        return
    tars = glob.glob(str(user_path(source)), recursive=True) if source.lower().endswith(".tar") else []
    for file in sorted(filter(os.path.isfile, tars)) or find_files(source, channels):
        if file.lower().endswith(".tar"):
            members = without_labels(file, find_members(file, suffixes_of(channels)))
            if companions(members, channels) & members.keys():
                raise DataError(f"{file}: images with a file for each channel are not read from a tar. Fix: unpack it.")
            yield from (_Source(f"{file}/{name}", member=member) for name, member in members.items())
        elif file.lower().endswith(".json"):
            yield from _in_coco(Path(file))
        else:
            yield _Source(file)


def _in_coco(file: Path) -> Iterator[_Source]:
    """Returns the images of a COCO json. Looks up only the first one."""
    images = images_of(file, parse_json(file, keep_segmentations=False))
    folder = _files_of_json(file).image_folder(images.names[:1])
    rows = zip(images.names, images.rows, strict=True)
    return (_Source(os.path.join(folder, name), None, image_id) for name, image_id in rows)


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


def _image_ids(sources: Sequence[_Source]) -> list[int | str]:
    """The ids of the images: of COCO jsons their ids; of other images the first unique one of number, file name and
    path. Raises DataError for two jsons with the same id."""
    json_ids = [source.image_id for source in sources if source.image_id is not None]
    for image_id in _repeated(json_ids):
        raise DataError(f"Two jsons have the image id {image_id!r}. Fix: predict each json into a separate folder.")
    possible = (image_id for s in sources if s.image_id is None for image_id in _possible_ids(s.location))
    repeated = _repeated(itertools.chain(json_ids, possible))

    def of(source: _Source) -> int | str:
        unique = [image_id for image_id in _possible_ids(source.location) if image_id not in repeated]
        return unique[0] if unique else source.url or Path(source.location).as_posix()

    return [of(source) if source.image_id is None else source.image_id for source in sources]


def _possible_ids(file: str) -> tuple[int | str, ...]:
    name, stem = os.path.basename(file), _stem(file)
    return (int(stem), name) if stem.isascii() and stem.isdecimal() else (name,)


def _repeated(values: Iterable[Any]) -> set[Any]:
    return {value for value, count in Counter(values).items() if count > 1}


def _output_names(files: Sequence[str], clips: Sequence[int]) -> list[str]:
    """Names that are unique ignoring case: stems, prefixed with as many folder names as needed, or with a number. No
    image is named like a video's frame. clips: the indices of videos."""
    names = _distinct_stems(files)
    taken: set[str] = set()
    numbers: dict[str, int] = defaultdict(lambda: 1)  # the largest number of a stem
    is_clip = {*clips}
    for indices in ((index for index in range(len(files)) if index not in is_clip), clips):
        for index in indices:
            stem = names[index]
            while (name := names[index].casefold()) in taken:
                numbers[stem.casefold()] += 1
                names[index] = f"{stem}-{numbers[stem.casefold()]}"
            taken.add(name)
        taken |= {frame[1] for name in taken if clips and (frame := _FRAME.fullmatch(name))}
    return names


def _distinct_stems(files: Sequence[str]) -> list[str]:
    """FOLDER-...-STEM of each path, with the fewest folders that distinguish paths in different folders."""
    stems = [_stem(file) for file in files]
    shared = _repeated(map(str.casefold, stems))
    folders = {
        index: sys.intern(os.path.dirname(os.path.abspath(files[index])))
        for index, stem in enumerate(stems)
        if stem.casefold() in shared
    }
    left = folders
    while left:
        first: dict[str, str] = {}  # the folder of the first file with a stem
        ambiguous: set[str] = set()
        for index, folder in left.items():
            stems[index] = f"{os.path.basename(folder)}-{stems[index]}"
            stem = stems[index].casefold()
            if first.setdefault(stem, folders[index]) != folders[index]:
                ambiguous.add(stem)
        left = {
            index: sys.intern(os.path.dirname(folder))
            for index, folder in left.items()
            if stems[index].casefold() in ambiguous and folder != os.path.dirname(folder)
        }
    return stems


def _stem(file: str) -> str:
    return os.path.splitext(os.path.basename(file))[0]


def _is_video(file: str) -> bool:
    return file.lower().endswith(videos.SUFFIXES)
