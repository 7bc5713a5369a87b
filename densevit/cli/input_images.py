"""The images of `densevit predict`: found in files, folders, glob patterns, videos, URLs and a list on stdin, named,
and read ahead."""

import re
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np

from densevit.data.io import videos
from densevit.data.io.images import decode_image, read_image
from densevit.errors import DataError, DensevitError
from densevit.inference.downloads import SCHEMES, download
from densevit.inference.image_inputs import find_files

_FRAME = re.compile(r"(.+)_\d{6,}")  # of the name of a frame: the name of its video
_LONGEST = 100  # largest number of characters in a file name taken from a URL
MAX_IN_FOLDER = 10_000  # for more images, output files are in subfolders
PER_SUBFOLDER = 1_000  # images


@dataclass(frozen=True)
class ImageFile:
    """An image file, a frame of a video, or an image of a URL.

    name: the stem of output files, unique among all images of one call; above 10,000 images below a subfolder for each
    1,000 images: 0012/NAME for the images from place 12,000 to 12,999.
    image_id: the file's stem as an integer, as in COCO (000000000139.jpg is 139), if it is one and unique; else the
    file's name, or its path if the name is not unique. frame: the number of a video frame, from 0; its name and id are
    NAME_000012. url: the address of an image to download, whose path is HOST/FILE. place: the place in the list of all
    images, from 0.
    """

    path: Path
    name: str
    image_id: int | str
    frame: int | None = None
    url: str | None = None
    place: int = 0

    @property
    def file_name(self) -> str:
        """The file's path or the URL; for a frame with its number, "clip.mp4#12"."""
        return self.url or self.path.as_posix() + ("" if self.frame is None else f"#{self.frame}")


def find_images(sources: Sequence[str]) -> list[ImageFile]:
    """Finds the images in files, folders (without subfolders), URLs and patterns such as `photos/**/*.jpg`, without
    duplicates.

    A video file yields all its frames. "-" reads sources from stdin, one per line. Images are in the order of the
    sources, sorted within each. URLs are not opened. Raises DataError for a source without images and for streams. A
    line of stdin without images is returned as a file that cannot be read, so that the others are predicted.
    """
    found: dict[Path | str, tuple[Path, str | None]] = {}  # path and URL of each image
    for source in sources:
        for path, url in _listed_on_stdin() if source == "-" else _located(source):
            found.setdefault(url or path.resolve(), (path, url))
    files = [path for path, _ in found.values()]
    names = _output_names(files)
    numbers = Counter(_number(path) for path in files)
    file_names = Counter(path.name for path in files)
    images = []
    for (path, url), name in zip(found.values(), names, strict=True):
        if url is None and path.suffix.lower() in videos.SUFFIXES:
            frames = ((f"{name}_{i:06}", i) for i in range(max(1, videos.count_frames(path))))
            images += [ImageFile(path, frame, frame, i) for frame, i in frames]
            continue
        number = _number(path)
        by_name = path.name if file_names[path.name] == 1 else url or path.as_posix()
        image_id = number if number is not None and numbers[number] == 1 else by_name
        images.append(ImageFile(path, name, image_id, url=url))
    return [_placed(image, place, len(images) > MAX_IN_FOLDER) for place, image in enumerate(images)]


def _placed(image: ImageFile, place: int, in_subfolder: bool) -> ImageFile:
    name = f"{place // PER_SUBFOLDER:04}/{image.name}" if in_subfolder else image.name
    return replace(image, name=name, place=place)


def _located(source: str) -> list[tuple[Path, str | None]]:
    """Returns the path and the URL of each image of a source."""
    if not source.lower().startswith(SCHEMES):
        return [(path, None) for path in find_files(source)]
    path = _path_of(source)
    if path.suffix.lower() in videos.SUFFIXES:
        raise DataError(f"{source}: videos are not read from URLs. Fix: download the video, and give its path.")
    return [(path, source)]


def _path_of(url: str) -> Path:
    """Returns HOST/FILE, where FILE is the last part of the URL's path, without percent-decoding."""
    parts = urlsplit(url)
    name = parts.path.rstrip("/").rpartition("/")[2] or parts.hostname or "image"
    suffix = Path(name).suffix[:_LONGEST]
    return Path(parts.hostname or "", name.removesuffix(suffix)[:_LONGEST] + suffix)


def _listed_on_stdin() -> list[tuple[Path, str | None]]:
    lines = [line.strip() for line in sys.stdin.read().removeprefix("\ufeff").splitlines() if line.strip()]
    if not lines:
        raise DataError("-: stdin names no image; expected one file, folder or pattern per line.")
    images: list[tuple[Path, str | None]] = []
    for line in lines:
        try:
            images += _located(line)
        except DataError:
            images.append((Path(line), None))
    return images


def _output_names(paths: Sequence[Path]) -> list[str]:
    """Returns names that are unique ignoring case: stems, after the names of as many of their folders as needed, or
    with a number. No image has the name of a video's frame."""
    stems = _distinct_stems(paths)
    taken: set[str] = set()
    names: dict[int, str] = {}
    clips = [index for index, path in enumerate(paths) if path.suffix.lower() in videos.SUFFIXES]
    for indices in (sorted({*range(len(paths))}.difference(clips)), clips):
        for index in indices:
            candidates = (stems[index] if n == 1 else f"{stems[index]}-{n}" for n in range(1, 2 * len(paths) + 2))
            names[index] = next(name for name in candidates if name.casefold() not in taken)
            taken.add(names[index].casefold())
        taken |= {frame[1] for name in taken if (frame := _FRAME.fullmatch(name))}
    return [names[index] for index in range(len(paths))]


def _distinct_stems(paths: Sequence[Path]) -> list[str]:
    """Returns FOLDER-...-STEM of each path with the fewest folders that tell it from those in other folders."""
    stems = [path.stem for path in paths]
    counts = Counter(stem.casefold() for stem in stems)
    left = {index: paths[index].resolve().parent for index, stem in enumerate(stems) if counts[stem.casefold()] > 1}
    folders = {index: "/".join(parent.parts) for index, parent in left.items()}
    while left:
        stems = [f"{left[index].name}-{stem}" if index in left else stem for index, stem in enumerate(stems)]
        places: dict[str, set[str]] = defaultdict(set)
        for index in left:
            places[stems[index].casefold()].add(folders[index])
        left = {
            index: parent.parent
            for index, parent in left.items()
            if len(places[stems[index].casefold()]) > 1 and parent != parent.parent
        }
    return stems


def _number(path: Path) -> int | None:
    return int(path.stem) if path.stem.isascii() and path.stem.isdecimal() else None


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

    with ThreadPoolExecutor() as pool:

        def submit(start: int) -> list[tuple[ImageFile, Future[np.ndarray | DensevitError]]]:
            return [(image, pool.submit(read, image)) for image in images[start : start + size]]

        chunk = submit(0)
        for start in range(size, len(images) + size, size):
            ready, chunk = chunk, submit(start)
            yield [(image, pixels.result()) for image, pixels in ready]
