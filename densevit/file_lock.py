"""Locks of files and folders, which one process holds at a time."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from densevit.errors import ConfigError

try:
    import fcntl
except ImportError:  # Windows: nothing is locked
    fcntl = None  # type: ignore[assignment]

_held: set[int] = set()  # file descriptors


def _close_in_child() -> None:
    """Closes the locks in a forked process, such as a data loader's worker, which would keep the locks of a killed
    parent."""
    for descriptor in _held:
        with suppress(OSError):
            os.close(descriptor)  # the parent still holds the lock
    _held.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_close_in_child)


class FileLock:
    """A lock of a file, which is created, or of a folder. The system releases it when the process ends, also if killed.

    The lock belongs to the open file (flock). A POSIX lock would belong to the process and be lost once any code of the
    process closes the file. Raises BlockingIOError if another process or another FileLock holds the lock. On file
    systems without locks, nothing is locked.
    """

    def __init__(self, path: Path) -> None:
        self._descriptor: int | None = None
        if fcntl is None:
            return
        descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            raise
        except OSError:  # a network file system without locks
            pass
        self._descriptor = descriptor
        _held.add(descriptor)

    def release(self) -> None:
        """Releases the lock; further calls do nothing."""
        if self._descriptor in _held:
            _held.remove(self._descriptor)
            os.close(self._descriptor)
        self._descriptor = None


@contextmanager
def locked_folder(folder: Path) -> Iterator[None]:
    """Creates a folder if it does not exist, and holds its lock. If the folder is empty at the end, it is removed.

    Raises ConfigError if another process holds the lock.
    """
    folder.mkdir(parents=True, exist_ok=True)
    try:
        lock = FileLock(folder)
    except BlockingIOError:
        raise ConfigError(
            f"{folder}: another process is writing to it. Fix: wait until it ends, or name another folder."
        ) from None
    try:
        yield
    finally:
        with suppress(OSError):  # not empty
            folder.rmdir()
        lock.release()
