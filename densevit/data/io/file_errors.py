"""Errors of damaged files, from any library that reads them, as one line that names the file."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

from PIL import Image

from densevit.errors import DataError, UnreadableFileError


@contextmanager
def naming_file(path: str | os.PathLike[str], noun: str, size: int | None = None) -> Iterator[None]:
    """Converts any exception to an UnreadableFileError that names the file.

    noun: its kind. size: in bytes; None: the file's.
    """
    try:
        yield
    except DataError as error:
        raise UnreadableFileError(f"{path}: {error}") from None
    except FileNotFoundError:
        raise UnreadableFileError(f"{path}: there is no such {noun}.") from None
    except Image.UnidentifiedImageError as error:
        found = f"{_size(path, size)}; {error}"
        raise UnreadableFileError(f"{path} is no image, or of a format that Pillow does not know ({found}).") from None
    except Exception as error:  # OSError, SyntaxError, ValueError, struct.error, zlib.error, BadZipFile and more
        found = _size(path, size)
        raise UnreadableFileError(
            f"{path} cannot be read: {error} ({found}). Is the file damaged or cut short?"
        ) from error


def _size(path: str | os.PathLike[str], size: int | None) -> str:
    try:
        return f"{os.path.getsize(path) if size is None else size} bytes"
    except OSError:
        return "its size is unknown"
