"""Files and folders that are there whole or not at all, and that take nobody's place."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from densevit.errors import WeightsError


def check_free(out: Path) -> None:
    """Raises WeightsError where something is there that is not an empty folder."""
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        found = "is not empty" if out.is_dir() else "is there already"
        raise WeightsError(f"{out} {found}. Name another, or remove it first.")
    above = next(folder for folder in out.absolute().parents if os.path.lexists(folder))
    if not above.is_dir():
        raise WeightsError(f"{out} cannot be made: {above} is no folder. Name another place.")
    if not os.access(above, os.W_OK | os.X_OK):
        raise WeightsError(f"{out} cannot be made: nothing may be written to {above}. Name another place.")


@contextmanager
def whole_folder(out: Path) -> Iterator[Path]:
    """A folder to fill, which gets its name once that is done; where it is broken off, nothing is left."""
    check_free(out)
    unfinished = _beside(out)
    unfinished.mkdir(parents=True)
    try:
        yield unfinished
        if out.is_dir():
            out.rmdir()
        unfinished.rename(out)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


@contextmanager
def whole_file(out: Path) -> Iterator[Path]:
    """The same for a file."""
    check_free(out)
    if out.is_dir():
        raise WeightsError(f"{out} is a folder. Name a file.")
    unfinished = _beside(out)
    unfinished.parent.mkdir(parents=True, exist_ok=True)
    try:
        yield unfinished
        unfinished.rename(out)
    finally:
        unfinished.unlink(missing_ok=True)


def _beside(out: Path) -> Path:
    """A free name in the same folder."""
    number = 0
    while (path := out.with_name(f"{out.name}.partial{number or ''}")).exists():
        number += 1
    return path
