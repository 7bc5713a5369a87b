"""Finds the pictures that somebody names on the command line: files, folders and patterns."""

import glob
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from densevit.errors import DataError

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".ppm", ".pgm")


@dataclass(frozen=True)
class Picture:
    """A picture file. name: what files made from it are called, unique among the pictures that were found with it.

    image_id: the number that is the file's name, as COCO's are (000000000139.jpg is 139); else the file's name, or,
    where several have it, the path.
    """

    path: Path
    name: str
    image_id: int | str


def find_pictures(sources: Sequence[str]) -> list[Picture]:
    """All pictures of files, folders (without their subfolders) and patterns such as `photos/**/*.jpg`, each once.

    In the order of sources, sorted within each. Raises DataError for a source that holds none.
    """
    paths: dict[Path, Path] = {}
    for source in sources:
        for path in _paths(source):
            paths.setdefault(path.resolve(), path)
    found = list(paths.values())
    names = _names(found)
    numbers = Counter(_number(path) for path in found)
    file_names = Counter(path.name for path in found)
    pictures = []
    for path, name in zip(found, names, strict=True):
        number = _number(path)
        by_name = path.name if file_names[path.name] == 1 else path.as_posix()
        pictures.append(Picture(path, name, number if number is not None and numbers[number] == 1 else by_name))
    return pictures


def _paths(source: str) -> list[Path]:
    if not source.strip():
        raise DataError("'' names no image: expected a file, a folder or a pattern.")
    path = Path(source).expanduser()
    if path.is_file():
        return [path]
    if path.is_dir():
        found = sorted(_pictures_among(path.iterdir()))
        if not found:
            below = f" For those of its subfolders, write '{path / '**' / '*.*'}'." if _has_below(path) else ""
            raise DataError(f"{source}: no pictures in this folder; looked for {', '.join(SUFFIXES)}.{below}")
        return found
    if glob.has_magic(source):
        found = sorted(_pictures_among(Path(match) for match in glob.glob(str(path), recursive=True)))
        if not found:
            raise DataError(f"{source}: the pattern fits no picture; looked for {', '.join(SUFFIXES)}.")
        return found
    raise DataError(f"{source}: there is no such file or folder.")


def _pictures_among(paths: Iterator[Path]) -> Iterator[Path]:
    return (p for p in paths if p.suffix.lower() in SUFFIXES and not p.name.startswith(".") and p.is_file())


def _has_below(folder: Path) -> bool:
    return next(_pictures_among(folder.rglob("*")), None) is not None


def _names(paths: Sequence[Path]) -> list[str]:
    """Stems; where several are equal but for case, with the folder's name before them; or a number after."""
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
