"""Checks that paths in a data set's files, such as COCO's `file_name`, are below its folder, unless allowed.

A data set from an untrusted source must not bring private files into a training run, a visualization or a converted
data set.
"""

import os
from pathlib import PurePath

from densevit.errors import DataError

FIX = (
    "Move the file below this folder and correct the entry. If you know where these files come from, "
    "data.outside_paths=true allows such paths."
)


def is_outside(path: str, folder: str | os.PathLike[str]) -> bool:
    """Whether a path, relative to a folder or absolute, leads out of it.

    Symbolic links in the folder may lead anywhere: the user made them. A path with `..` after a link is outside if the
    real path differs from the real path of the normalised text.
    """
    if not PurePath(path).anchor and ".." not in path:  # almost all paths
        return False
    base = os.path.abspath(folder)
    joined = os.path.join(base, path)
    normal = os.path.normpath(joined)
    if not PurePath(normal).is_relative_to(base):
        return True
    return ".." in PurePath(path).parts and os.path.realpath(joined) != os.path.realpath(normal)


def check_listed_path(where: str, path: str, root: str | os.PathLike[str], folder: str) -> None:
    """Raises DataError for a path in a list file that leads out of root and out of the folder given in the config.

    path, folder: relative to root, or absolute. where: the file and its line.
    """
    joined = os.path.join(os.path.abspath(root), path)
    if is_outside(path, root) and is_outside(joined, os.path.join(root, folder.partition("*")[0])):
        raise DataError(f"{where}: {path!r} is outside of {root}. {FIX}")
