"""`data.root`, the folder of a data set."""

from pathlib import Path

from densevit.errors import DataError, one_line
from densevit.paths import check_unpacked, nearest_neighbour, user_path


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
