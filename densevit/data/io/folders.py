"""Lists the files below a folder."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path


def files_below(folder: str | os.PathLike[str], suffixes: Sequence[str] = ()) -> list[Path]:
    """Returns the files below a folder, sorted by path, without hidden files and folders.

    Follows symbolic links to folders, except to a parent of the link. suffixes: accepted suffixes in lower case, with
    the dot; none: all files.
    """
    return sorted(Path(path) for path in _walk(os.fspath(folder), ()) if path.lower().endswith(tuple(suffixes) or ""))


def _walk(folder: str, parents: tuple[str, ...]) -> Iterator[str]:
    """Yields the paths of the files below a folder. parents: the real paths of the folders that contain it."""
    real = os.path.realpath(folder)
    if real in parents:
        return
    try:
        entries = list(os.scandir(folder))
    except OSError:  # a folder that may not be read, or that has just been removed
        return
    for entry in entries:
        if entry.name.startswith("."):
            continue
        if entry.is_dir():
            yield from _walk(entry.path, (*parents, real))
        else:
            yield entry.path
