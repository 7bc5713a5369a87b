"""Paths that users give: on the command line, in configs and in Python."""

import os
from contextlib import suppress
from pathlib import Path

from densevit.errors import UnreadableFileError

# the first bytes of gzip, bzip2, xz, zstd, zip, 7z and rar
_COMPRESSED = (b"\x1f\x8b", b"BZh91AY&SY", b"\xfd7zXZ", b"(\xb5/\xfd", b"PK\x03\x04", b"7z\xbc\xaf", b"Rar!")
_TAR = slice(257, 262)  # of the first header of a tar: "ustar"


def user_path(path: str | os.PathLike[str]) -> Path:
    """The path with `~` and `~USER` expanded; unchanged if there is no such user."""
    with suppress(RuntimeError):
        return Path(path).expanduser()
    return Path(path)


def check_unpacked(path: str | os.PathLike[str], tar_allowed: bool = False) -> None:
    """Raises UnreadableFileError for a compressed file and, unless allowed, for a tar, by the first bytes."""
    head = b""
    if os.path.isfile(path):
        with suppress(OSError), open(path, "rb") as file:
            head = file.read(_TAR.stop)
    if head.startswith(_COMPRESSED) or (head[_TAR] == b"ustar" and not tar_allowed):
        raise UnreadableFileError(
            f"{path} is an archive or a compressed file. Fix: unpack it, and name the folder with its files. densevit "
            "predict also reads tars, if they are not compressed (gunzip, unxz)."
        )
