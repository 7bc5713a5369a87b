"""Collects the faults in a data set's files, so that one conversion reports all of them."""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from densevit.data.outside_paths import is_outside
from densevit.errors import DataError, UnreadableFileError

LISTED = 10  # files in a message
T = TypeVar("T")

_FIX = "Correct these entries."
_FIX_UNREADABLE = (
    "Replace images that cannot be read, remove them with their label files, or leave them out with --skip-unreadable "
    "(in Python: skip_unreadable=True; for training: data.on_error=skip)."
)


class InvalidObjectError(DataError):
    """An invalid object, such as a box without area.

    where: the file and the object. reason: a phrase for an `Inventory`, such as "whose box has no area". count: the
    number of objects.
    """

    def __init__(self, where: str, message: str, reason: str, count: int = 1) -> None:
        super().__init__(f"{where}: {message}")
        self.where, self.reason, self.count = where, reason, count


class Faults:
    """The faults in the files of a conversion.

    skip_unreadable: missing and unreadable images are not faults, but listed in `skipped`. outside_paths: whether
    entries may name images outside of the source. strict: whether invalid objects are faults; otherwise
    `invalid_objects` lists their positions by reason.
    """

    def __init__(self, skip_unreadable: bool = False, outside_paths: bool = False, strict: bool = False) -> None:
        self.skip_unreadable, self.outside_paths, self.strict = skip_unreadable, outside_paths, strict
        self.errors: list[DataError] = []
        self.skipped: list[str] = []
        self.invalid_objects: dict[str, list[str]] = {}
        self._users: dict[str, Path] = {}  # by file

    @contextmanager
    def collecting(self) -> Iterator[None]:
        """A context that collects a DataError, which ends the block."""
        try:
            yield
        except InvalidObjectError as error:
            if self.strict:
                self.errors.append(error)
            else:
                self.skip(error.reason, [error.where] * error.count)
        except UnreadableFileError as error:
            if self.skip_unreadable:
                self.skipped.append(str(error))
            else:
                self.errors.append(error)
        except DataError as error:
            self.errors.append(error)

    def map(self, read: Callable[..., T], *items: Iterable[Any]) -> list[T]:
        """The results of `read` for all items, as of the built-in `map`; collects the faults of the others."""
        results = []
        for arguments in zip(*items, strict=False):
            with self.collecting():
                results.append(read(*arguments))
        return results

    def skip(self, reason: str, places: Sequence[str]) -> None:
        """Counts skipped objects."""
        if places:
            self.invalid_objects.setdefault(reason, []).extend(places)

    def check_place(self, where: str, path: Path, folder: Path) -> None:
        """Raises DataError if an entry's path is outside of the source's folder, unless allowed.

        where: a text for the message.
        """
        if not self.outside_paths and is_outside(os.path.join(os.getcwd(), path), folder):
            raise DataError(
                f"{where}: {path} is outside of {folder}. Move the image below this folder and correct the entry. If "
                "you know where these files come from, --outside-paths (in Python: outside_paths=True; for training: "
                "data.outside_paths=true) allows such paths."
            )

    def record_use(self, file: Path, user: Path) -> None:
        """Records that `user` uses `file`. Raises DataError for a second user: two images with one text file, or two
        text files with one image."""
        first = self._users.setdefault(os.path.abspath(file), user)
        if first != user:
            raise DataError(f"{first} and {user} both belong to {file}. Rename or remove one of them.")

    def check(self, source: Path, splits: Mapping[str, Sequence[object]]) -> None:
        """Raises DataError with the first faults, their number and the fix, if there are any.

        splits: the images that were read; no image at all is a fault too.
        """
        if self.skipped and not self.errors and not any(splits.values()):
            raise DataError(f"{source}: none of {len(self.skipped):,} images can be read:{_lines(self.skipped)}")
        unreadable = [error for error in self.errors if isinstance(error, UnreadableFileError)]
        fixes = ([_FIX] if len(unreadable) < len(self.errors) else []) + ([_FIX_UNREADABLE] if unreadable else [])
        if len(self.errors) == 1:
            raise DataError(f"{self.errors[0]} Fix: {' '.join(fixes)}" if unreadable else str(self.errors[0]))
        if self.errors:
            raise DataError(f"{source} has {len(self.errors):,} faults:{_lines(self.errors)}\nFix: {' '.join(fixes)}")

    def skipped_text(self, source: Path) -> str:
        """The warning about skipped images; empty without any."""
        count = len(self.skipped)
        images = "1 image that cannot be read is" if count == 1 else f"{count:,} images that cannot be read are"
        return f"{source}: {images} left out:{_lines(self.skipped)}" if count else ""


def _lines(messages: Sequence[object]) -> str:
    """The first messages, one per line, and the number of further messages."""
    more = len(messages) - LISTED
    lines = [*map(str, messages[:LISTED]), *([f"... and {more:,} more"] if more > 0 else [])]
    return "".join(f"\n  {line}" for line in lines)
