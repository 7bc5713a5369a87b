"""The images of `densevit predict`: found in files, folders, glob patterns, videos, URLs and a list on stdin, named,
and read ahead."""

import glob
import os
import re
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np

from densevit.cli.background_threads import background_threads
from densevit.data.io import videos
from densevit.data.io.images import decode_image, read_image
from densevit.errors import DataError, DensevitError
from densevit.inference.downloads import SCHEMES, download
from densevit.inference.image_inputs import SUFFIXES, find_files
from densevit.paths import user_path

_FRAME = re.compile(r"(.+)_\d{6,}")  # of the name of a frame: the name of its video
_LONGEST = 100  # largest number of characters in a file name taken from a URL
MAX_IN_FOLDER = 10_000  # for more images, output files are in subfolders
PER_SUBFOLDER = 1_000  # images


@dataclass(frozen=True, slots=True)
class ImageFile:
    """An image file, a frame of a video, or an image of a URL.

    location: the path of the file, as text: a list of a million images takes a tenth of the memory of `Path` objects.
    name: the stem of output files, unique among all images of one call; above 10,000 images below a subfolder for each
    1,000 images: 0012/NAME for the images from place 12,000 to 12,999.
    image_id: the file's stem as an integer, as in COCO (000000000139.jpg is 139), if it is one and unique; else the
    file's name, or its path if the name is not unique. frame: the number of a video frame, from 0; its name and id are
    NAME_000012. url: the address of an image to download, whose path is HOST/FILE. place: the place in the list of all
    images, from 0.
    """

    location: str
    name: str
    image_id: int | str
    frame: int | None = None
    url: str | None = None
    place: int = 0

    @property
    def path(self) -> Path:
        return Path(self.location)

    @property
    def file_name(self) -> str:
        """The file's path or the URL; for a frame with its number, "clip.mp4#12"."""
        return self.url or self.path.as_posix() + ("" if self.frame is None else f"#{self.frame}")


def find_images(sources: Sequence[str]) -> list[ImageFile]:
    """Finds the images in files, folders (without subfolders), URLs and patterns such as `photos/**/*.jpg`, without
    duplicates.

    A video file yields all its frames. "-" reads sources from stdin, one per line. Images are in the order of the
    sources, sorted within each. URLs are not opened, nor are the images that stdin names: their names and ids come from
    the paths only. Raises DataError for a source without images and for streams. A line of stdin without images is
    returned as a file that cannot be read, so that the others are predicted.
    """
    found: dict[str, tuple[str, str | None]] = {}  # location and URL of each image
    for source in sources:
        for location, url in _listed_on_stdin() if source == "-" else _located(source):
            found.setdefault(url or os.path.abspath(location), (location, url))
    files = [location for location, _ in found.values()]
    frames = {
        index: max(1, videos.count_frames(Path(location)))
        for index, (location, url) in enumerate(found.values())
        if url is None and _is_video(location)
    }
    in_subfolders = len(files) - len(frames) + sum(frames.values()) > MAX_IN_FOLDER
    names = _output_names(files)
    numbers = Counter(number for file in files if (number := _number(file)) is not None)
    file_names = Counter(map(os.path.basename, files))
    images: list[ImageFile] = []

    def add(location: str, name: str, image_id: int | str, frame: int | None = None, url: str | None = None) -> None:
        place = len(images)
        subfolder = f"{place // PER_SUBFOLDER:04}/" if in_subfolders else ""
        images.append(ImageFile(location, subfolder + name, image_id, frame, url, place))

    for index, ((location, url), name) in enumerate(zip(found.values(), names, strict=True)):
        if index in frames:
            for frame in range(frames[index]):
                add(location, f"{name}_{frame:06}", f"{name}_{frame:06}", frame)
            continue
        number, file_name = _number(location), os.path.basename(location)
        by_name = file_name if file_names[file_name] == 1 else url or Path(location).as_posix()
        add(location, name, number if number is not None and numbers[number] == 1 else by_name, url=url)
    return images


def _located(source: str) -> list[tuple[str, str | None]]:
    """Returns the path and the URL of each image of a source."""
    if not source.lower().startswith(SCHEMES):
        return [(str(path), None) for path in find_files(source)]
    path = _path_of(source)
    if _is_video(str(path)):
        raise DataError(f"{source}: videos are not read from URLs. Fix: download the video, and give its path.")
    return [(str(path), source)]


def _path_of(url: str) -> Path:
    """Returns HOST/FILE, where FILE is the last part of the URL's path, without percent-decoding."""
    parts = urlsplit(url)
    name = parts.path.rstrip("/").rpartition("/")[2] or parts.hostname or "image"
    suffix = Path(name).suffix[:_LONGEST]
    return Path(parts.hostname or "", name.removesuffix(suffix)[:_LONGEST] + suffix)


def _listed_on_stdin() -> Iterator[tuple[str, str | None]]:
    """Yields the path and the URL of each image of the lines. A line with the suffix of an image is the path of a file,
    which is not looked up; others are folders, patterns, videos and URLs."""
    count = 0
    for text in sys.stdin:
        line = (text if count else text.removeprefix("\ufeff")).strip()
        if not line:
            continue
        count += 1
        if line.lower().endswith(SUFFIXES) and "://" not in line and not glob.has_magic(line):
            yield str(user_path(line)), None
            continue
        try:
            yield from _located(line)
        except DataError:
            yield str(Path(line)), None
    if not count:
        raise DataError("-: stdin names no image; expected one file, folder or pattern per line.")


def _output_names(files: Sequence[str]) -> list[str]:
    """Returns names that are unique ignoring case: stems, after the names of as many of their folders as needed, or
    with a number. No image has the name of a video's frame."""
    names = _distinct_stems(files)
    taken: set[str] = set()
    clips = [index for index, file in enumerate(files) if _is_video(file)]
    is_clip = {*clips}
    for indices in ((index for index in range(len(files)) if index not in is_clip), clips):
        for index in indices:
            stem = names[index]
            candidates = (stem if n == 1 else f"{stem}-{n}" for n in range(1, 2 * len(files) + 2))
            names[index] = next(name for name in candidates if name.casefold() not in taken)
            taken.add(names[index].casefold())
        taken |= {frame[1] for name in taken if (frame := _FRAME.fullmatch(name))}
    return names


def _distinct_stems(files: Sequence[str]) -> list[str]:
    """Returns FOLDER-...-STEM of each path with the fewest folders that tell it from those in other folders."""
    stems = [_stem(file) for file in files]
    counts = Counter(map(str.casefold, stems))
    folders = {
        index: os.path.dirname(os.path.abspath(files[index]))
        for index, stem in enumerate(stems)
        if counts[stem.casefold()] > 1
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
            index: os.path.dirname(folder)
            for index, folder in left.items()
            if stems[index].casefold() in ambiguous and folder != os.path.dirname(folder)
        }
    return stems


def _stem(file: str) -> str:
    return os.path.splitext(os.path.basename(file))[0]


def _is_video(file: str) -> bool:
    return os.path.splitext(file)[1].lower() in videos.SUFFIXES


def _number(file: str) -> int | None:
    stem = _stem(file)
    return int(stem) if stem.isascii() and stem.isdecimal() else None


def read_ahead(images: Sequence[ImageFile], size: int) -> Iterator[list[tuple[ImageFile, np.ndarray | DensevitError]]]:
    """Yields chunks of images with their pixels or an error; reads the next chunk while one is processed."""
    frames: dict[Path, set[int]] = defaultdict(set)
    for image in images:
        if image.frame is not None:
            frames[image.path].add(image.frame)
    clips = {path: videos.VideoFrames(path, wanted) for path, wanted in frames.items()}

    def read(image: ImageFile) -> np.ndarray | DensevitError:
        try:
            if image.url is not None:
                return decode_image(download(image.url), image.url)
            return read_image(image.path) if image.frame is None else clips[image.path].read(image.frame)
        except DensevitError as error:
            return error

    with background_threads((os.cpu_count() or 1) + 1, "read images") as pool:

        def submit(start: int) -> list[tuple[ImageFile, Future[np.ndarray | DensevitError]]]:
            return [(image, pool.submit(read, image)) for image in images[start : start + size]]

        chunk = submit(0)
        for start in range(size, len(images) + size, size):
            ready, chunk = chunk, submit(start)
            yield [(image, pixels.result()) for image, pixels in ready]
