"""Paths that the files of a data set name, such as COCO's `file_name`: below the data set's folder, unless allowed.

A data set from somebody else must not make a private file of the reader's a part of a training, a visualization or a
converted data set.
"""

import os
from collections.abc import Iterable
from pathlib import PurePath

from densevit.errors import DataError

FIX = (
    "Move the file below this folder and correct the entry. If you know where these files come from, "
    "data.outside_paths=true allows such paths."
)


def is_outside(path: str, folder: str | os.PathLike[str]) -> bool:
    """Whether a path, relative to a folder or absolute, leads out of it.

    Only the text is judged: symbolic links in the folder are the user's own, and may lead anywhere. `..` behind a link
    means another folder than the text says, and is outside.
    """
    if not PurePath(path).anchor and ".." not in path:  # almost all
        return False
    base = os.path.abspath(folder)
    joined = os.path.join(base, path)
    normal = os.path.normpath(joined)
    if not PurePath(normal).is_relative_to(base):
        return True
    return ".." in PurePath(path).parts and os.path.realpath(joined) != os.path.realpath(normal)


def check_file_names(
    file: str | os.PathLike[str], image_ids: Iterable[object], names: Iterable[str], folder: str | os.PathLike[str]
) -> None:
    """Raises DataError with the first `file_name` of a json that leads out of the folder of these files."""
    for image_id, name in zip(image_ids, names, strict=True):
        if is_outside(name, folder):
            raise DataError(f"{file}: image {image_id!r} has the file_name {name!r}, outside of {folder}. {FIX}")


def check_listed_path(where: str, path: str, root: str | os.PathLike[str], folder: str) -> None:
    """Raises DataError for a path of a list file that leads out of root and of a folder that the config names.

    path, folder: relative to root, or absolute. where: the file and its line.
    """
    joined = os.path.join(os.path.abspath(root), path)
    if is_outside(path, root) and is_outside(joined, os.path.join(root, folder.partition("*")[0])):
        raise DataError(f"{where}: {path!r} is outside of {root}. {FIX}")
