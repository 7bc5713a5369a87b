"""Paths that users give: on the command line, in configs and in Python."""

import os
from contextlib import suppress
from pathlib import Path

from densevit.errors import DensevitError


def user_path(path: str | os.PathLike[str]) -> Path:
    """The path with `~` and `~USER` expanded; unchanged if there is no such user.

    Raises DensevitError for an empty text, which would otherwise name the working folder.
    """
    if isinstance(path, str) and not path.strip():
        raise DensevitError("a path is empty. Fix: name a file or a folder; the working folder is `.`.")
    with suppress(RuntimeError):
        return Path(path).expanduser()
    return Path(path)
