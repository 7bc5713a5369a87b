"""Validates all files of a data set before training, in threads, so that a bad one is not found in epoch three."""

import os
import time
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

import numpy as np
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from densevit.data.datasets.examination import current_examination, record_files
from densevit.data.io.images import check_image
from densevit.errors import DataError, UnreadableFileError
from densevit.terminal import text_console

THREADS = min(32, 2 * (os.cpu_count() or 1))
_CHUNK = 32  # files that a thread takes at a time
_PATIENCE = 2.0  # seconds without a progress bar
_NAMED = 3  # unreadable files in a warning

_skipped: ContextVar[list[UnreadableFileError] | None] = ContextVar("skipped", default=None)


@contextmanager
def skipping_unreadable_files() -> Iterator[None]:
    """Within it, the checks of this module report unreadable files as a warning (`data.on_error: skip`)."""
    token = _skipped.set([])
    try:
        yield
    finally:
        _skipped.reset(token)


def skips_unreadable_files() -> bool:
    """Whether this is called within `skipping_unreadable_files`, or within `examining`."""
    return _skipped.get() is not None or current_examination() is not None


def unreadable_files() -> list[UnreadableFileError]:
    """The errors that checks within this `skipping_unreadable_files` have reported so far."""
    found = _skipped.get()
    return [] if found is None else found


def for_each(
    count: int, check: Callable[[int], None], title: str = "Validating images", needed: Iterable[int] | None = None
) -> None:
    """Calls check(0) to check(count - 1) in threads, until one raises. Shows a progress bar on a terminal.

    Within `skipping_unreadable_files`, an UnreadableFileError ends the check only if all indices raise it. Within
    `examining`, each DataError is reported, and none ends the check. needed: the indices that an examination of a
    sample checks besides it; None: all.
    """
    skips = _skipped.get() is not None  # here: a context variable does not reach other threads
    examination = current_examination()
    indices: Sequence[int] = range(count)
    if examination is not None and needed is not None:
        indices = sorted({*examination.chosen(count).tolist(), *needed})
    unreadable: dict[int, UnreadableFileError] = {}
    errors: dict[int, DataError] = {}

    def chunk(start: int) -> int:
        part = indices[start : start + _CHUNK]
        for index in part:
            try:
                check(index)
            except DataError as error:
                if examination is not None:
                    errors[index] = error
                elif skips and isinstance(error, UnreadableFileError):
                    unreadable[index] = error
                else:
                    raise
        return len(part)

    columns = (TextColumn(title), BarColumn(), MofNCompleteColumn())
    bar = Progress(*columns, console=text_console(stderr=True), transient=True)
    task, begin, shown = bar.add_task("", total=len(indices)), time.monotonic(), False
    with ThreadPoolExecutor(THREADS) as threads:
        try:
            for done in threads.map(chunk, range(0, len(indices), _CHUNK)):
                bar.advance(task, done)
                if not shown and bar.console.is_terminal and time.monotonic() - begin > _PATIENCE:
                    shown = True
                    bar.start()
        except BaseException:
            threads.shutdown(cancel_futures=True)
            raise
        finally:
            if shown:
                bar.stop()
    if examination is not None:
        examination.report_errors(errors, len(indices), count)
    if unreadable:
        first = [unreadable[index] for index in sorted(unreadable)[:_NAMED]]
        if len(unreadable) == count:
            raise first[0]
        unreadable_files().extend(unreadable.values())
        more = " ..." if len(unreadable) > _NAMED else ""
        warnings.warn(
            f"{len(unreadable)} of {count} images will be left out (data.on_error: skip): "
            f"{' '.join(map(str, first))}{more}",
            stacklevel=2,
        )


def validate_images(
    folder: Path, names: Sequence[str], sizes: np.ndarray, annotations: Path
) -> tuple[np.ndarray, np.ndarray]:
    """Checks that each image exists, is whole and has the size that its annotations are made for.

    sizes: (N, 2) int, height and width as the file `annotations` gives them; 0 where it does not.
    Returns the (N, 2) sizes of the annotated grids, and (N,) bool, whether an image is to be rotated as its EXIF
    orientation says: annotations may be made on the image as shown or as stored, and only its size tells which.
    Raises DataError with up to five of the missing images, otherwise with the first image that is wrong. Within
    `skipping_unreadable_files`, the sizes of unreadable images are those given, or 1.
    """
    check_existence(folder, names, annotations)
    record_files(os.path.join(folder, name) for name in names)
    found, upright = np.maximum(sizes, 1, dtype=np.int32), np.ones(len(names), bool)

    def check(i: int) -> None:
        path = os.path.join(folder, names[i])
        header, given = check_image(path), (int(sizes[i, 0]), int(sizes[i, 1]))
        upright[i] = 0 in given or given == header.upright_size
        found[i] = header.upright_size if upright[i] else header.size
        if not upright[i] and given != header.size:
            (h, w), (height, width) = given, header.upright_size
            raise DataError(
                f"{path} has {width} x {height} pixels, but {annotations} says {w} x {h}. "
                "Boxes would not fit: the image was resized, or is another one."
            )

    for_each(len(names), check, needed=np.flatnonzero((sizes == 0).any(axis=1)).tolist())
    return found, upright


def check_existence(folder: Path, names: Sequence[str], annotations: Path, noun: str = "images") -> None:
    """Raises DataError with up to five of the missing files; within `skipping_unreadable_files` if all are missing.

    noun: what messages call them.
    Lists each folder once, which is much faster than a look at each file.
    """
    by_folder: dict[Path, set[str]] = defaultdict(set)
    for name in names:
        parent, _, base = name.rpartition("/")
        by_folder[folder / parent].add(base)
    missing = []
    for place, expected in by_folder.items():
        there = {entry.name for entry in os.scandir(place)} if place.is_dir() else set()
        # The second look is for file systems that ignore case.
        missing += [str(place / name) for name in expected - there if not (place / name).exists()]
    examination = current_examination()
    if examination is not None and len(missing) < len(names):
        examination.missing.update(missing)
        fix = "Copy them to their place, or remove them from the annotations."
        examination.report("error", f"missing {noun}", sorted(missing), fix, of=len(names))
        return
    if missing and not (skips_unreadable_files() and len(missing) < len(names)):
        listed = "".join(f"\n  {name}" for name in sorted(missing)[:5]) + ("\n  ..." if len(missing) > 5 else "")
        raise DataError(f"{annotations} names {len(names)} {noun}, of which {len(missing)} do not exist:{listed}")
