"""The images of `densevit predict`, with their ids and the names of their output files."""

import itertools
import os
import re
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from densevit.channels import RGB, Channels
from densevit.data.datasets.image_files import companions
from densevit.errors import DataError
from densevit_batch.image_file import ImageFile, VideoFrames, count_frames
from densevit_batch.image_sources import ImageSource, is_video, listed_images

_FRAME = re.compile(r"(.+)_\d{6,}")  # the name of a frame: its video's name, and its number
MAX_IN_FOLDER = 10_000  # for more images, output files go into subfolders
PER_SUBFOLDER = 1_000  # images per subfolder


def find_images(sources: Sequence[str], channels: Channels = RGB, stdin: str = "") -> list[ImageFile]:
    """Finds the images in files, folders (without subfolders), URLs and patterns such as `photos/**/*.jpg`, without
    duplicates.

    A video yields all its frames, a tar its images, a COCO json its `images` with their ids. A text file, and stdin as
    "-", lists sources, one per line. Images are in the order of the sources, sorted within each folder and pattern.
    URLs and listed images are not opened: names and ids come from the paths.

    channels: the model's. stdin: the text that "-" stands for. Raises DataError for a source without images and for
    streams. A line of a list without images becomes an unreadable file, so that all others are predicted.
    """
    unique: dict[str, ImageSource] = {}  # by path or URL, and id
    for source in (image for name in sources for image in listed_images(name, channels, stdin)):
        unique.setdefault(f"{source.url or os.path.abspath(source.location)}\0{source.image_id!r}", source)
    other_channels = companions((source.location for source in unique.values()), channels)
    listed = [source for source in unique.values() if source.location not in other_channels]
    del unique
    clips = {  # number of frames; 1: unreadable
        index: max(1, count_frames(Path(source.location)))
        for index, source in enumerate(listed)
        if is_video(source.location) and source == ImageSource(source.location)
    }
    in_subfolders = len(listed) - len(clips) + sum(clips.values()) > MAX_IN_FOLDER
    names = _output_names([source.location for source in listed], [*clips])
    images: list[ImageFile] = []
    for index, (source, name, image_id) in enumerate(zip(listed, names, _image_ids(listed), strict=True)):
        (location, url, _, member), video = source, VideoFrames(Path(source.location)) if index in clips else None
        for frame in (None,) if video is None else range(clips[index]):
            number, stem = len(images), name if frame is None else f"{name}_{frame:06}"
            path = f"{number // PER_SUBFOLDER:04}/{stem}" if in_subfolders else stem
            unique_id = stem if video else image_id
            images.append(ImageFile(location, path, unique_id, frame, url, number, video, member))
    return images


def _image_ids(sources: Sequence[ImageSource]) -> list[int | str]:
    """The ids of the images: of COCO jsons their ids; of other images the first unique one of number, file name and
    path. Raises DataError for two jsons with the same id."""
    json_ids = [source.image_id for source in sources if source.image_id is not None]
    for image_id in _repeated(json_ids):
        raise DataError(f"Two jsons have the image id {image_id!r}. Fix: predict each json into a separate folder.")
    possible = (image_id for s in sources if s.image_id is None for image_id in _possible_ids(s.location))
    repeated = _repeated(itertools.chain(json_ids, possible))

    def of(source: ImageSource) -> int | str:
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
