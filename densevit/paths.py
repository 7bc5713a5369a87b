"""Paths that users give: on the command line, in configs and in Python."""

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from densevit.errors import DensevitError, UnreadableFileError, nearest

_ARCHIVES = (".tar", ".gz", ".tgz", ".bz2", ".tbz2", ".xz", ".txz", ".zst", ".zip", ".7z", ".rar")
_COMPRESSED = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"(\xb5/\xfd")  # the first bytes of gzip, bzip2, xz and zstd


def user_path(path: str | os.PathLike[str]) -> Path:
    """Expands `~` and `~USER`; returns the path unchanged if there is no such user.

    Raises DensevitError for an empty text, which would otherwise name the working folder.
    """
    if isinstance(path, str) and not path.strip():
        raise DensevitError("a path is empty. Fix: name a file or a folder; the working folder is `.`.")
    with suppress(RuntimeError):
        return Path(path).expanduser()
    return Path(path)


def nearest_neighbour(path: Path, fits: Callable[["os.DirEntry[str]"], bool] = os.DirEntry.is_dir) -> str:
    """Returns " Did you mean 'data/cells'?" with the most similar entry of the folder of `path` that fits; empty if
    none is similar."""
    try:
        with os.scandir(path.parent) as entries:
            names = [entry.name for entry in entries if fits(entry)]
    except (OSError, ValueError):
        return ""
    return nearest(path.name, names, str(path).removesuffix(path.name))


def check_unpacked(path: str | os.PathLike[str], tar_allowed: bool = False) -> None:
    """Raises UnreadableFileError for a file with the suffix of an archive or of a compressed file.

    tar_allowed: whether to accept tars that are not compressed.
    """
    if not os.fspath(path).lower().endswith(_ARCHIVES) or not os.path.isfile(path):
        return
    if tar_allowed:
        with suppress(OSError), open(path, "rb") as file:
            tar_allowed = not file.read(6).startswith(_COMPRESSED)
    if not tar_allowed:
        raise UnreadableFileError(
            f"{path} is an archive or a compressed file. Fix: unpack it, and name the folder with its files. densevit "
            "predict also reads tars, if they are not compressed (gunzip, unxz)."
        )
