"""The names of a data set's splits on disk, and the error for a split that it does not have."""

import glob
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path

from densevit.errors import DataError

DIVIDED = ("train", "val")  # the splits of images that are divided by a share
_SPELLINGS = {"train": ("train", "training"), "val": ("val", "valid", "validation")}
_NAMES = {spelling: split for split, names in _SPELLINGS.items() for spelling in names}


def check_limit(limit: int | None) -> None:
    """Raises DataError for a number of images below 1."""
    if limit is not None and limit < 1:
        raise DataError(f"data.limit is {limit}; expected at least 1 image.")


def spellings(split: str) -> tuple[str, ...]:
    """Returns the names that a split may have on disk."""
    return _SPELLINGS.get(split, (split,))


def path_exists(root: Path, pattern: str) -> bool:
    """Whether a path relative to root, or any file of a pattern with stars, exists."""
    return bool(matches(root, pattern)) if "*" in pattern else (root / pattern).exists()


def matches(root: Path, pattern: str) -> list[str]:
    """Returns the paths, relative to root, that a pattern with stars matches."""
    return glob.glob("*".join(map(glob.escape, pattern.split("*"))), root_dir=root)


def split_names(root: Path, patterns: Sequence[str], splits: Mapping[str, str] | None = None) -> list[str]:
    """Returns the splits for which the paths of all patterns with {split} exist, and the names in `splits`.

    patterns: relative to root. splits: the names of splits on disk.
    """
    on_disk = [_on_disk(root, pattern) for pattern in patterns if "{split}" in pattern]
    names = set.intersection(*on_disk) if on_disk else set(DIVIDED)
    splits = splits or {}
    return _ordered(splits.keys() | {_NAMES.get(name, name) for name in names - set(splits.values())})


def check_split(
    root: Path,
    split: str,
    patterns: Sequence[str],
    splits: Mapping[str, str] | None = None,
    is_divided: bool = False,
) -> None:
    """Raises DataError for a split of which no path exists, if the data set has others. Paths without {split} are those
    of train and val.

    patterns, splits: the arguments of `split_names`. is_divided: whether the images of train are divided into train and
    val.
    """
    given = [pattern for pattern in patterns if "{split}" in pattern]
    if split in (splits or {}) or ((is_divided or not given) and split in DIVIDED):
        return
    if any(path_exists(root, pattern.replace("{split}", name)) for pattern in given for name in spellings(split)):
        return
    if names := {*split_names(root, patterns, splits), *(DIVIDED if is_divided else ())}:
        raise missing_split(root, split, names, "" if given else "put {split} into the paths of the data set, or ")


def missing_split(where: object, split: str, names: Iterable[str], fix: str = "") -> DataError:
    """Returns the error for a split that a data set does not have.

    names: its splits. fix: the start of the fix in the message.
    """
    known = _ordered(names)
    example = next((name for name in known if name != "train"), known[0])
    return DataError(
        f"{where} has no split {split!r}, only {', '.join(known)}. Fix: {fix}name one of them, as in "
        f"data.split={example}."
    )


def _on_disk(root: Path, pattern: str) -> set[str]:
    """The names in place of {split} for which a path of the pattern exists."""
    stars = pattern.replace("{split}", "*")
    form = re.escape(pattern).replace(r"\*", "[^/]*").replace(re.escape("{split}"), "([^/]+)", 1)
    form = form.replace(re.escape("{split}"), r"\1")
    found = ((path, re.fullmatch(form, path)) for path in matches(root, stars))
    is_folder = "*" not in pattern and not Path(pattern.replace("{split}", "split")).suffix
    return {match[1] for path, match in found if match and (not is_folder or (root / path).is_dir())}


def _ordered(names: Iterable[str]) -> list[str]:
    """Names with train and val first."""
    known: Collection[str] = set(names)
    return [name for name in DIVIDED if name in known] + sorted(name for name in known if name not in DIVIDED)
