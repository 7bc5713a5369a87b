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
    """A forked process, such as a worker of the data loader, would keep the locks of a parent that was killed."""
    for descriptor in _held:
        with suppress(OSError):
            os.close(descriptor)  # the parent still holds the lock
    _held.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_close_in_child)


class FileLock:
    """A lock of a file, which is created, or of a folder. The system releases it however the process ends.

    It belongs to the open file (flock), not to the process as a POSIX lock does, which is lost once any code of the
    process closes the file. Raises BlockingIOError if another process or another FileLock holds it. File systems
    without locks are not locked.
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
        """Unlocks it; does nothing the second time."""
        if self._descriptor in _held:
            _held.remove(self._descriptor)
            os.close(self._descriptor)
        self._descriptor = None


@contextmanager
def locked_folder(folder: Path) -> Iterator[None]:
    """Creates a folder if it does not exist, and holds its lock. If it is empty at the end, it is removed.

    Raises ConfigError if another process holds it.
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
