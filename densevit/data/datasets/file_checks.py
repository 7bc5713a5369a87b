"""Checks all files of a data set before training, in threads, so that a damaged file fails at the start."""

import os
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Literal, Protocol, runtime_checkable

from densevit.errors import UnreadableFileError
from densevit.interfaces import Dataset
from densevit.progress import track

OnError = Literal["raise", "skip"]

THREADS = min(32, 2 * (os.cpu_count() or 1))
_CHUNK = 32  # files that a thread takes at a time
_MANY = 2000  # files; the check of fewer takes seconds
_NAMED = 3  # unreadable files listed in a warning


@runtime_checkable
class SupportsCheckFile(Protocol):
    """A data set whose files can be checked without reading their pixels."""

    def check_file(self, index: int) -> None:
        """Raises UnreadableFileError or another DataError for a wrong file of a sample."""


@runtime_checkable
class SupportsCheckFiles(Protocol):
    """A data set that checks all its files faster than one by one."""

    def check_files(self, on_error: OnError = "raise") -> None:
        """Raises DataError as `check_files` does."""


def check_files(dataset: Dataset, on_error: OnError = "raise") -> None:
    """Checks the files of a data set that supports it.

    Raises the first error. on_error: "skip" leaves out files that cannot be read, with a warning, unless all are.
    """
    if isinstance(dataset, SupportsCheckFiles):
        dataset.check_files(on_error)
    elif isinstance(dataset, SupportsCheckFile):
        check_each(len(dataset), dataset.check_file, on_error)


def check_each(count: int, check: Callable[[int], object], on_error: OnError) -> None:
    """Calls check(0) to check(count - 1) in threads. Raises as `check_files`."""
    unreadable: dict[int, UnreadableFileError] = {}

    def checked(index: int) -> None:
        try:
            check(index)
        except UnreadableFileError as error:
            if on_error == "raise":
                raise
            unreadable[index] = error

    for_each(count, checked, "Checking files")
    errors = [unreadable[index] for index in sorted(unreadable)]
    if errors and len(errors) == count:
        raise errors[0]
    if errors:
        more = " ..." if len(errors) > _NAMED else ""
        warnings.warn(
            f"{len(errors)} of {count} images will be left out (data.on_error: skip): "
            f"{' '.join(map(str, errors[:_NAMED]))}{more}",
            stacklevel=2,
        )


def for_each(count: int, check: Callable[[int], object], title: str) -> None:
    """Calls check(0) to check(count - 1) in threads until a call raises. Shows progress for 2000 or more."""

    def chunk(start: int) -> None:
        for index in range(start, min(start + _CHUNK, count)):
            check(index)

    starts = range(0, count, _CHUNK)
    with ThreadPoolExecutor(THREADS) as threads:
        try:
            for _ in track(threads.map(chunk, starts), title, len(starts), quiet=count < _MANY):
                pass
        except BaseException:
            threads.shutdown(cancel_futures=True)
            raise
