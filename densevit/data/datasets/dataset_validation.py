"""Validates all files of a data set before training, in threads, so that a damaged file fails at the start."""

import os
import time
import warnings
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, TypeVar

import numpy as np
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from densevit.channels import RGB, Channels
from densevit.data.datasets.examination import Examination, Problem
from densevit.data.io.file_lookup import find_file, missing_hint
from densevit.data.io.images import image_header
from densevit.data.outside_paths import FIX, is_outside
from densevit.errors import DataError, UnreadableFileError, warn_once
from densevit.terminal import in_notebook, notebook_bar, text_console

THREADS = min(32, 2 * (os.cpu_count() or 1))
_CHUNK = 32  # files that a thread takes at a time
_PATIENCE = 2.0  # seconds without a progress bar
_NAMED = 3  # unreadable files listed in a warning
T = TypeVar("T")


@dataclass(frozen=True)
class Scan:
    """How a data set's constructor scans its files. By default it raises DataError for the first invalid file.

    on_error: "skip" leaves out files that cannot be read, with a warning (`data.on_error`). unreadable: the errors of
    these files so far. examination: collects the errors of files and records, which are then left out with any
    on_error; an error that leaves nothing to read, such as a missing folder, is still raised. The scan is then not
    cached, and sizes that require opening an image are 0 until it is opened.
    """

    on_error: Literal["raise", "skip"] = "raise"
    examination: Examination | None = None
    unreadable: list[DataError] = field(default_factory=list, init=False)

    @property
    def skips_unreadable(self) -> bool:
        """Whether files that cannot be read are left out."""
        return self.on_error == "skip" or self.examination is not None

    def read(self, reader: Generator[Problem, None, T]) -> T:
        """Runs a reader, which yields the problems of what it leaves out, and returns its result.

        Raises the first error as DataError; warnings are shown once. An examination reports all problems; one without a
        title is raised after the others.
        """
        fatal: list[str] = []
        try:
            while True:
                problem = next(reader)
                if self.examination is None:
                    if problem.severity == "error":
                        raise DataError(problem.message)
                    if problem.severity == "warning":
                        warn_once(problem.message)
                    continue
                if not problem.title:
                    fatal.append(problem.message)
                    continue
                self.examination.report(
                    problem.severity, problem.title, problem.examples, problem.fix, problem.count, problem.of
                )
        except StopIteration as end:
            if fatal:
                raise DataError(fatal[0]) from None
            result: T = end.value
            return result

    def record_files(self, paths: Iterable[str]) -> None:
        """Passes the files of a data set's images, in order, to the examination if there is one."""
        if self.examination is not None:
            self.examination.files.extend(paths)

    def examine_files(
        self,
        count: int,
        check: Callable[[int], None],
        title: str = "Validating images",
        needed: Iterable[int] | None = None,
        indices: Sequence[int] | None = None,
    ) -> None:
        """Calls check(0) to check(count - 1) in threads, until one raises an error that is not left out.

        If all indices raise an error, it is not left out, except in an examination. needed: the indices that an
        examination of a sample checks additionally; None: all. indices: those to check; None: all of `count`.
        """
        indices = range(count) if indices is None else indices
        if self.examination is not None and needed is not None:
            indices = sorted({*self.examination.chosen(count).tolist(), *needed})
        errors: dict[int, DataError] = {}

        def checked(place: int) -> None:
            try:
                check(indices[place])
            except DataError as error:
                skipped = self.on_error == "skip" and isinstance(error, UnreadableFileError)
                if self.examination is None and not skipped:
                    raise
                errors[indices[place]] = error

        for_each(len(indices), checked, title)
        if self.examination is not None:
            self.examination.report_errors(errors, len(indices), count)
        elif errors:
            unreadable = [errors[index] for index in sorted(errors)]
            if len(unreadable) == len(indices):
                raise unreadable[0]
            self.unreadable.extend(unreadable)
            more = " ..." if len(unreadable) > _NAMED else ""
            warnings.warn(
                f"{len(unreadable)} of {count} images will be left out (data.on_error: skip): "
                f"{' '.join(map(str, unreadable[:_NAMED]))}{more}",
                stacklevel=2,
            )

    def existing_files(
        self,
        folder: Path,
        names: Sequence[str],
        annotations: Path,
        noun: str = "images",
        outside_paths: bool = False,
    ) -> list[str]:
        """Returns the files' names, relative to the folder: as they are written, or as `find_file` finds them.

        Raises DataError with up to five missing files; if unreadable files are skipped, only if all are missing. noun:
        the files' name in messages. outside_paths: whether a name in another form may lead out of the folder; names as
        they are written are not checked. Lists each folder once, which is much faster than testing each file.
        """
        entries: dict[str, set[str]] = {}
        found, missing = list(names), {}
        for i, name in enumerate(names):
            parent, _, base = name.rpartition("/")
            if parent not in entries:
                place = os.path.join(folder, parent)
                entries[parent] = {entry.name for entry in os.scandir(place)} if os.path.isdir(place) else set()
            # Files are tested individually too, for file systems that ignore case.
            if base not in entries[parent] and not os.path.exists(os.path.join(folder, name)):
                file = find_file(folder, name, outside_paths=True)
                if file is None:
                    missing[str(folder / name)] = name
                    continue
                if file != name and not outside_paths and is_outside(file, folder):
                    raise DataError(f"{annotations}: the file_name {name!r} is {file!r}, outside of {folder}. {FIX}")
                found[i] = file
        cause = missing_hint(folder, next(iter(missing.values()))) if missing else ""
        fix = f"Copy them to these paths, or remove them from the annotations.{cause}"
        if self.examination is not None and len(missing) < len(names):
            self.examination.missing.update(missing)
            self.examination.report("error", f"missing {noun}", sorted(missing), fix, of=len(names))
        elif missing and not (self.skips_unreadable and len(missing) < len(names)):
            listed = "".join(f"\n  {path}" for path in sorted(missing)[:5]) + ("\n  ..." if len(missing) > 5 else "")
            raise DataError(
                f"{annotations} names {len(names)} {noun}, of which {len(missing)} do not exist:{listed}\n{fix}"
            )
        return found


STRICT_SCAN = Scan()  # raises the first error


def for_each(count: int, check: Callable[[int], None], title: str) -> None:
    """Calls check(0) to check(count - 1) in threads, until one raises. Shows a progress bar."""

    def chunk(start: int) -> int:
        part = range(start, min(start + _CHUNK, count))
        for index in part:
            check(index)
        return len(part)

    with _bar(title, count) as advance, ThreadPoolExecutor(THREADS) as threads:
        try:
            for done in threads.map(chunk, range(0, count, _CHUNK)):
                advance(done)
        except BaseException:
            threads.shutdown(cancel_futures=True)
            raise


@contextmanager
def _bar(title: str, count: int) -> Iterator[Callable[[int], object]]:
    """A progress bar after a few seconds; none if stderr is neither a terminal nor a notebook."""
    if in_notebook():
        with notebook_bar()(total=count, desc=title, delay=_PATIENCE, leave=False) as notebook:
            yield notebook.update
        return
    columns = (TextColumn(title), BarColumn(), MofNCompleteColumn())
    bar = Progress(*columns, console=text_console(stderr=True), transient=True)
    task, begin, shown = bar.add_task("", total=count), time.monotonic(), False

    def advance(done: int) -> None:
        nonlocal shown
        bar.advance(task, done)
        if not shown and bar.console.is_terminal and time.monotonic() - begin > _PATIENCE:
            shown = True
            bar.start()

    try:
        yield advance
    finally:
        if shown:
            bar.stop()


def validate_images(
    scan: Scan, folder: Path, names: Sequence[str], sizes: np.ndarray, annotations: Path, channels: Channels = RGB
) -> tuple[np.ndarray, np.ndarray]:
    """Checks that each image is complete and has the size of its annotations.

    names: the names of existing files. sizes: (N, 2) int, height and width given in the file `annotations`; 0 if it has
    none.
    Returns the (N, 2) sizes of the images as they are stored, and (N,) their EXIF orientations. Raises DataError with
    the first invalid image, whose size is neither the stored nor the upright one. If unreadable images are skipped,
    their sizes are those given, or 1, and their orientation is 1; also of images that an examination does not open. It
    opens all if one that EXIF rotates has the stored size in the annotations, as only this tells their grid.
    """
    scan.record_files(os.path.join(folder, name) for name in names)
    stored, orientations = np.maximum(sizes, 1, dtype=np.int32), np.ones(len(names), np.uint8)

    def check(i: int) -> None:
        path = os.path.join(folder, names[i])
        header, given = image_header(path, channels), (int(sizes[i, 0]), int(sizes[i, 1]))
        if 0 not in given and given not in (header.size, header.upright_size):
            (h, w), (height, width) = given, header.upright_size
            raise DataError(
                f"{path} has {width} x {height} pixels, but {annotations} says {w} x {h}. "
                "Boxes would not fit: the image was resized or replaced."
            )
        stored[i], orientations[i] = header

    scan.examine_files(len(names), check, needed=np.flatnonzero((sizes == 0).any(axis=1)).tolist())
    if scan.examination is not None and ((orientations >= 5) & (stored == sizes).all(axis=1)).any():
        scan.examine_files(len(names), check, needed=range(len(names)))
    return stored, orientations
