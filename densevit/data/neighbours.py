"""Suggests a similar name for a path that does not exist."""

import difflib
import os
from pathlib import Path


def nearest_neighbour(path: Path, only_folders: bool = False) -> str:
    """Returns " Did you mean 'data/cells'?" with the most similar entry of the folder; empty if none is similar."""
    try:
        with os.scandir(path.parent) as entries:
            names = [entry.name for entry in entries if entry.is_dir() or not only_folders]
    except (OSError, ValueError):
        return ""
    matches = difflib.get_close_matches(path.name, names, n=1)
    return f" Did you mean {str(path.with_name(matches[0]))!r}?" if matches else ""
