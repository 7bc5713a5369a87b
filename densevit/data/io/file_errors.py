"""Converts the errors of libraries that read a damaged file to one line that names the file."""

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager

from PIL import Image

from densevit.errors import DataError, UnreadableFileError, one_line
from densevit.paths import check_unpacked


@contextmanager
def naming_file(path: str | os.PathLike[str], noun: str, size: int | None = None) -> Iterator[None]:
    """Converts any exception to an UnreadableFileError that names the file, and refuses FIFOs and devices.

    noun: what the message calls the file. size: number of bytes if the content is already read; None: `path` is still
    to be read.
    """
    try:
        if size is None:
            check_regular(path, "it is")
        yield
    except DataError as error:
        raise UnreadableFileError(f"{path}: {error}") from None
    except FileNotFoundError:
        raise UnreadableFileError(f"{path}: there is no such {noun}.") from None
    except MemoryError:
        raise UnreadableFileError(
            f"{path} does not fit into this machine's memory. Fix: cut it into tiles; or, for label maps or depth of a "
            "TIFF, densevit predict --window, which reads it by rows."
        ) from None
    except Image.UnidentifiedImageError:
        check_unpacked(path)
        raise UnreadableFileError(
            f"{path} is not an image, or has a format that Pillow does not read ({_size(path, size)}). Fix: save it as "
            "PNG."
        ) from None
    except Exception as error:  # OSError, SyntaxError, ValueError, struct.error, zlib.error, BadZipFile and more
        size_text = _size(path, size)
        fix = "Fix: pip install imagecodecs." if "imagecodecs" in str(error) else "Is the file damaged or cut short?"
        raise UnreadableFileError(f"{path} cannot be read: {one_line(error)} ({size_text}). {fix}") from error


def check_regular(path: str | os.PathLike[str], subject: str = "") -> None:
    """Raises DataError for a FIFO, a device or a socket: reading may never end. A missing file passes.

    subject: the subject of the message; by default the path.
    """
    try:
        mode = os.stat(path).st_mode
    except OSError:
        return
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):  # reading a folder raises an error
        file_type = "a FIFO" if stat.S_ISFIFO(mode) else "a socket" if stat.S_ISSOCK(mode) else "a device"
        raise DataError(f"{subject or f'{path} is'} {file_type}; a regular file is expected.")


def _size(path: str | os.PathLike[str], size: int | None) -> str:
    try:
        return f"{os.path.getsize(path) if size is None else size} bytes"
    except OSError:
        return "its size is unknown"
