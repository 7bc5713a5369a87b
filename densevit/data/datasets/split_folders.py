"""The folder of a data set, `data.root`, the names of splits in it, and checks of the options `split` and `limit`."""

import glob
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from densevit.errors import DataError, one_line
from densevit.paths import check_unpacked, nearest_neighbour, user_path

DIVIDED = ("train", "val")  # the splits into which `data.val_share` divides images
_SPELLINGS = {"train": ("train", "training"), "val": ("val", "valid", "validation")}


def root_folder(root: str | None, file_allowed: bool = False) -> Path:
    """Returns `data.root` as an existing folder, or file if allowed. Raises DataError if it does not exist."""
    if root is None:
        raise DataError("data.root is missing: name the data set's folder.")
    try:
        base = user_path(root)
        exists = base.is_dir() or (file_allowed and base.is_file())
    except (OSError, RuntimeError, ValueError) as error:  # a name that is too long, an unknown user, a NUL
        raise DataError(f"data.root: {one_line(error)}. Name the data set's folder.") from None
    check_unpacked(base)
    if exists:
        return base
    if base.is_file():
        raise DataError(f"data.root: {base} is a file; the data set's folder is expected.")
    hint = nearest_neighbour(base)
    raise DataError(f"data.root: there is no folder {base} (working directory {Path.cwd()}).{hint}")


def check_limit(limit: int | None) -> None:
    """Raises DataError for a number of images below 1."""
    if limit is not None and limit < 1:
        raise DataError(f"data.limit is {limit}; expected at least 1 image.")


def limited(chosen: np.ndarray, limit: int | None) -> np.ndarray:
    """Returns the first `limit` images of those chosen, (N,) bool."""
    return chosen if limit is None else chosen & (np.cumsum(chosen) <= limit)


def spellings(split: str) -> tuple[str, ...]:
    """Returns the names that a split may have on disk."""
    return _SPELLINGS.get(split, (split,))


def split_path(pattern: str, name: str) -> str:
    """Returns the path of a split: {split} is replaced by its name on disk, and `~` by the home folder."""
    return os.path.expanduser(pattern.replace("{split}", name))


def path_exists(root: Path, pattern: str) -> bool:
    """Whether a path relative to root, or any file of a pattern with stars, exists."""
    return bool(matches(root, pattern)) if "*" in pattern else (root / pattern).exists()


def matches(root: Path, pattern: str) -> list[str]:
    """Returns the paths, relative to root, that a pattern with stars matches."""
    return glob.glob("*".join(map(glob.escape, pattern.split("*"))), root_dir=root)


def check_split(root: Path, split: str, patterns: Sequence[str], splits: Mapping[str, str] | None = None) -> None:
    """Raises DataError unless the split is train, val or in `splits`, or a path contains {split}."""
    if split not in (*DIVIDED, *(splits or {})) and not any("{split}" in pattern for pattern in patterns):
        raise missing_split(root, split, DIVIDED, "put {split} into the paths of the data set, or ")


def missing_split(where: object, split: str, names: Iterable[str], fix: str = "") -> DataError:
    """Returns the error for a split that a data set does not have.

    names: its splits. fix: the start of the fix in the message.
    """
    ordered = sorted(names)
    example = next((name for name in ordered if name != "train"), ordered[0])
    return DataError(
        f"{where} has no split {split!r}, only {', '.join(ordered)}. Fix: {fix}name one of them, as in "
        f"data.val_split={example}."
    )
