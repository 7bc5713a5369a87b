"""Atomic writes: a file or folder appears complete or not at all, and never replaces an existing one."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from densevit.errors import WeightsError


def check_free(out: Path) -> None:
    """Raises WeightsError if `out` exists and is not an empty folder, or cannot be created."""
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        found = "is not empty" if out.is_dir() else "exists"
        raise WeightsError(f"{out} {found}. Name another path, or remove it first.")
    parent = next(folder for folder in out.absolute().parents if os.path.lexists(folder))
    if not parent.is_dir():
        raise WeightsError(f"{out} cannot be created: {parent} is not a folder. Name another path.")
    if not os.access(parent, os.W_OK | os.X_OK):
        raise WeightsError(f"{out} cannot be created: no permission to write to {parent}. Name another path.")


@contextmanager
def atomic_folder(out: Path) -> Iterator[Path]:
    """Yields a temporary folder, renamed to `out` on success and removed on failure."""
    check_free(out)
    temporary = _temporary(out)
    temporary.mkdir(parents=True)
    try:
        yield temporary
        if out.is_dir():
            out.rmdir()
        temporary.rename(out)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def atomic_file(out: Path) -> Iterator[Path]:
    """Yields the path of a temporary file, renamed to `out` on success and removed on failure."""
    check_free(out)
    if out.is_dir():
        raise WeightsError(f"{out} is a folder. Name a file.")
    temporary = _temporary(out)
    temporary.parent.mkdir(parents=True, exist_ok=True)
    try:
        yield temporary
        temporary.rename(out)
    finally:
        temporary.unlink(missing_ok=True)


def _temporary(out: Path) -> Path:
    """An unused name in the same folder."""
    number = 0
    while (path := out.with_name(f"{out.name}.partial{number or ''}")).exists():
        number += 1
    return path
