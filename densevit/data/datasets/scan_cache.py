"""Caches the scan of a large data set: its parsed annotations, and the sizes of its validated images.

An entry is an NPZ of plain arrays, without pickled objects, in $DENSEVIT_CACHE, by default densevit/ in $XDG_CACHE_HOME
or ~/.cache; DENSEVIT_CACHE=off disables the cache. It is valid while all scanned files keep their path, size and
modification time. If several processes start together, one scans and the others wait for its entry.
"""

import hashlib
import json
import os
import warnings
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock

from densevit.atomic_io import replaced_file
from densevit.data.datasets.file_checks import for_each
from densevit.paths import user_path

Arrays = dict[str, np.ndarray]

FORMAT = 11  # increment when data sets scan other arrays, or check more
LARGE = 2000  # files; fewer are scanned quickly
_STAMPS = "stamps"


def cache_folder() -> Path:
    """Returns the folder of the entries."""
    folder = os.environ.get("DENSEVIT_CACHE")
    if folder:
        return user_path(folder)
    return user_path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "densevit"


def cached_scan(
    key: Sequence[Any],
    make: Callable[[], Arrays],
    files_of: Callable[[Arrays], Sequence[str]],
    is_large: bool = True,
    is_complete: Callable[[Arrays], bool] = lambda arrays: True,
) -> Arrays:
    """Returns the arrays of make(), from the cache if no file has changed.

    key: everything that the arrays depend on besides files, as JSON values: the data set, paths and options. files_of:
    returns the paths of all scanned files from the arrays. is_large: small data sets are not cached. is_complete:
    whether arrays may be cached; arrays that miss unreadable files (`data.on_error: skip`) may not. A damaged entry is
    replaced, and a cache folder that cannot be written is a warning.
    """
    if not is_large or os.environ.get("DENSEVIT_CACHE") == "off":
        return make()
    digest = hashlib.sha256(json.dumps([FORMAT, os.getcwd(), *key]).encode()).hexdigest()[:32]
    entry = cache_folder() / f"{key[0]}-{digest}.npz"
    with ExitStack() as stack:
        try:
            entry.parent.mkdir(parents=True, exist_ok=True)
            stack.enter_context(FileLock(entry.with_suffix(".lock")))
        except OSError as error:
            _warn(entry, error)
            return make()
        cached_arrays = _read(entry, files_of)
        if cached_arrays is not None:
            return cached_arrays
        arrays = make()
        if is_complete(arrays):
            stored = arrays | {_STAMPS: _stamps(files_of(arrays))}
            try:
                with replaced_file(entry) as partial, partial.open("wb") as file:
                    np.savez(file, **stored)  # type: ignore[arg-type]
            except OSError as error:
                _warn(entry, error)
    return arrays


def json_array(value: Any) -> np.ndarray:
    """Converts a JSON value to an array of bytes, for an entry."""
    return np.frombuffer(json.dumps(value).encode(), np.uint8)


def json_value(array: np.ndarray) -> Any:
    """Inverse of `json_array`."""
    return json.loads(array.tobytes())


def _stamps(files: Sequence[str]) -> np.ndarray:
    """Returns (F, 2) int64, size and modification time in ns of each file; -1 for a missing file."""
    stamps = np.full((len(files), 2), -1, np.int64)

    def look(index: int) -> None:
        with suppress(OSError):
            status = os.stat(files[index])
            stamps[index] = status.st_size, status.st_mtime_ns

    for_each(len(files), look, "Looking for changed files")
    return stamps


def _read(entry: Path, files_of: Callable[[Arrays], Sequence[str]]) -> Arrays | None:
    """Reads an entry. Returns None if it is missing or damaged, or if a file has changed."""
    try:
        with np.load(entry, allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in stored.files}
        stamps = arrays.pop(_STAMPS)
        files = files_of(arrays)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except Exception as error:  # OSError, ValueError, KeyError, EOFError, BadZipFile, zlib.error and more
        warnings.warn(f"{entry}: the cached scan cannot be read ({error}), and is repeated.", stacklevel=2)
        return None
    return arrays if np.array_equal(stamps, _stamps(files)) else None


def _warn(entry: Path, error: OSError) -> None:
    warnings.warn(
        f"The scan of the data set cannot be cached in {entry.parent} ({error.strerror or error}); each start repeats "
        "it. Fix: set the environment variable DENSEVIT_CACHE to a folder that can be written, or to off.",
        stacklevel=2,
    )
