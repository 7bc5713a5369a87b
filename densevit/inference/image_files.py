"""Images from the command line: files, folders, glob patterns, frames of videos, and a list on stdin."""

import glob
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from densevit.data.io import videos
from densevit.errors import DataError

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".ppm", ".pgm")


@dataclass(frozen=True)
class ImageFile:
    """An image file, or a frame of a video. name: the stem of output files, unique among all images of one call.

    image_id: the file's stem as an integer, as in COCO (000000000139.jpg is 139), if it is one and unique; else the
    file's name, or its path if the name is not unique. frame: its number from 0, of a video; NAME_000012 is its name
    and id.
    """

    path: Path
    name: str
    image_id: int | str
    frame: int | None = None

    @property
    def file_name(self) -> str:
        """The file's path; of a frame with its number, "clip.mp4#12"."""
        return self.path.as_posix() + ("" if self.frame is None else f"#{self.frame}")


def find_images(sources: Sequence[str]) -> list[ImageFile]:
    """Finds the images of files, folders (without subfolders) and patterns such as `photos/**/*.jpg`, each once.

    Of a video, given as a file, all frames. "-" reads files from stdin, one per line. They are in the order of the
    sources, sorted within each. Raises DataError for a source without images; a line of stdin that names none is an
    image that cannot be read, so that the others are predicted.
    """
    paths: dict[Path, Path] = {}
    for source in sources:
        for path in _lines_of_stdin() if source == "-" else _paths(source):
            paths.setdefault(path.resolve(), path)
    files = list(paths.values())
    names = _output_names(files)
    numbers = Counter(_number(path) for path in files)
    file_names = Counter(path.name for path in files)
    images = []
    for path, name in zip(files, names, strict=True):
        if path.suffix.lower() in videos.SUFFIXES:
            frames = ((f"{name}_{i:06}", i) for i in range(max(1, videos.count_frames(path))))
            images += [ImageFile(path, frame, frame, i) for frame, i in frames]
            continue
        number = _number(path)
        by_name = path.name if file_names[path.name] == 1 else path.as_posix()
        images.append(ImageFile(path, name, number if number is not None and numbers[number] == 1 else by_name))
    return images


def _lines_of_stdin() -> list[Path]:
    lines = [line.strip() for line in sys.stdin if line.strip()]
    if not lines:
        raise DataError("-: stdin names no image; expected a file, folder or pattern per line.")
    paths = []
    for line in lines:
        try:
            paths += _paths(line)
        except DataError:
            paths.append(Path(line))
    return paths


def _paths(source: str) -> list[Path]:
    if not source.strip():
        raise DataError("'' names no image: expected a file, a folder or a pattern.")
    path = Path(source).expanduser()
    if path.is_file():
        return [path]
    if path.is_dir():
        images = sorted(_image_files(path.iterdir()))
        if not images:
            hint = (
                f" For those of its subfolders, use '{path / '**' / '*.*'}'." if _subfolders_have_images(path) else ""
            )
            raise DataError(f"{source}: no images in this folder; expected {', '.join(SUFFIXES)}.{hint}")
        return images
    if glob.has_magic(source):
        matches = [Path(match) for match in glob.glob(str(path), recursive=True)]
        clips = (path for path in matches if path.suffix.lower() in videos.SUFFIXES and path.is_file())
        images = sorted([*_image_files(iter(matches)), *clips])
        if not images:
            raise DataError(f"{source}: the pattern matches no image; expected {', '.join(SUFFIXES)}.")
        return images
    raise DataError(f"{source}: there is no such file or folder.")


def _image_files(paths: Iterator[Path]) -> Iterator[Path]:
    return (p for p in paths if p.suffix.lower() in SUFFIXES and not p.name.startswith(".") and p.is_file())


def _subfolders_have_images(folder: Path) -> bool:
    return next(_image_files(folder.rglob("*")), None) is not None


def _output_names(paths: Sequence[Path]) -> list[str]:
    """Unique names: the stem; prefixed by the folder's name if the stem is not unique ignoring case; then numbered."""
    stems = Counter(path.stem.casefold() for path in paths)
    taken: set[str] = set()
    names = []
    for path in paths:
        stem = path.stem if stems[path.stem.casefold()] == 1 else f"{path.resolve().parent.name}-{path.stem}"
        candidates = (stem if n == 1 else f"{stem}-{n}" for n in range(1, len(paths) + 2))
        name = next(name for name in candidates if name.casefold() not in taken)
        taken.add(name.casefold())
        names.append(name)
    return names


def _number(path: Path) -> int | None:
    return int(path.stem) if path.stem.isascii() and path.stem.isdecimal() else None
