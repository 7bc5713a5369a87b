"""Looks at all picture files of a data set before training starts, so that a bad one is not found in epoch three."""

import os
import sys
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from densevit.data.images import check_image
from densevit.errors import DataError

_CHUNK = 256  # pictures that a thread takes at a time
_PATIENCE = 2.0  # seconds without a progress bar


def scan_images(folder: Path, names: Sequence[str], sizes: np.ndarray, said_by: Path) -> tuple[np.ndarray, np.ndarray]:
    """Checks that every picture exists, is whole and has the size that its annotations are made for.

    sizes: (N, 2) int, height and width as the file `said_by` has them; 0 where it does not say.
    Returns the (N, 2) sizes on which the annotations stand, and (N,) bool, whether the picture is to be turned upright
    for that: annotations may be made on the picture as shown or as stored, and only its size tells which.
    Raises DataError with up to five of the pictures that are missing; otherwise with the first that is wrong.
    """
    _check_existence(folder, names, said_by)
    found, upright = np.zeros((len(names), 2), np.int32), np.ones(len(names), bool)

    def look(start: int) -> int:
        stop = min(start + _CHUNK, len(names))
        for i in range(start, stop):
            path = os.path.join(folder, names[i])
            header, said = check_image(path), (int(sizes[i, 0]), int(sizes[i, 1]))
            upright[i] = 0 in said or said == header.upright_size
            found[i] = header.upright_size if upright[i] else header.size
            if not upright[i] and said != header.size:
                (h, w), (height, width) = said, header.upright_size
                raise DataError(
                    f"{path} has {width} x {height} pixels, but {said_by} says {w} x {h}. "
                    "Boxes would not fit; the picture was resized, or is another one."
                )
        return stop - start

    with ThreadPoolExecutor(min(16, 4 * (os.cpu_count() or 1))) as threads, progress(len(names)) as advance:
        try:
            for done in threads.map(look, range(0, len(names), _CHUNK)):
                advance(done)
        except BaseException:
            threads.shutdown(cancel_futures=True)
            raise
    return found, upright


def _check_existence(folder: Path, names: Sequence[str], said_by: Path) -> None:
    """Lists each folder once, which is much quicker than asking for each file."""
    by_folder: dict[Path, set[str]] = defaultdict(set)
    for name in names:
        parent, _, base = name.rpartition("/")
        by_folder[folder / parent].add(base)
    missing = []
    for place, expected in by_folder.items():
        there = {entry.name for entry in os.scandir(place)} if place.is_dir() else set()
        missing += [
            str(place / name) for name in expected - there if not (place / name).exists()
        ]  # e.g. in another case
    if missing:
        listed = "".join(f"\n  {name}" for name in sorted(missing)[:5]) + ("\n  ..." if len(missing) > 5 else "")
        raise DataError(f"{said_by} names {len(names)} pictures, of which {len(missing)} do not exist:{listed}")


class _Advance:
    """Shows a progress bar once the work has taken a while, and only to people."""

    def __init__(self, total: int) -> None:
        columns = (TextColumn("Looking at pictures"), BarColumn(), MofNCompleteColumn())
        self.bar = Progress(*columns, console=Console(file=sys.stderr), transient=True)
        self.task = self.bar.add_task("", total=total)
        self.started, self.shown = time.monotonic(), False

    def __call__(self, done: int) -> None:
        self.bar.advance(self.task, done)
        if not self.shown and self.bar.console.is_terminal and time.monotonic() - self.started > _PATIENCE:
            self.shown = True
            self.bar.start()


@contextmanager
def progress(total: int) -> Iterator[_Advance]:
    advance = _Advance(total)
    try:
        yield advance
    finally:
        if advance.shown:
            advance.bar.stop()
