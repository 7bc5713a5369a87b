"""Paths that users give: on the command line, in configs and in Python."""

import os
from contextlib import suppress
from pathlib import Path


def user_path(path: str | os.PathLike[str]) -> Path:
    """The path with `~` and `~USER` expanded; unchanged if there is no such user."""
    with suppress(RuntimeError):
        return Path(path).expanduser()
    return Path(path)
