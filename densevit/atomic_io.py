"""Atomic writes and locks: a file or folder appears complete or not at all, also if several processes write at once."""

import itertools
import os
import shutil
import signal
import socket
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryFile
from typing import NoReturn

from filelock import FileLock, Timeout

from densevit.errors import ConfigError, DensevitError, WeightsError

LOCK = ".lock"
"""Name of the lock file in a folder that a process is writing to."""


def check_free(out: Path, fix: str = "Name another path.") -> None:
    """Raises WeightsError if `out` exists and is not an empty folder, or cannot be created."""
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        state = "is not empty" if out.is_dir() else "exists"
        raise WeightsError(f"{out} {state}. Name another path, or remove it first.")
    check_writable(out.absolute().parent, out, fix)


def check_new_folder(folder: Path, hint: str = "") -> None:
    """Raises DensevitError unless a folder is new or empty. hint: another fix, for the message."""
    if folder.exists() and not is_empty(folder):
        reason = "is not empty" if folder.is_dir() else "is a file"
        raise DensevitError(f"{folder} {reason}. Fix: name a new folder, or remove this one first{hint}.")
    check_writable(folder)


def is_empty(folder: Path) -> bool:
    """Whether a folder exists and contains no file except a lock, which a killed process may have left."""
    return folder.is_dir() and all(path.name == LOCK for path in folder.iterdir())


def check_writable(folder: Path, out: Path | None = None, fix: str = "Name another path.") -> None:
    """Raises WeightsError unless files can be created in a folder, which need not exist yet. out: the path that the
    message names; None: the folder.

    Tests by creating a temporary file: permissions do not show a read-only file system, nor what root may do.
    """
    base = next(path for path in (folder.absolute(), *folder.absolute().parents) if os.path.lexists(path))
    if not base.is_dir():
        raise WeightsError(f"{out or folder} cannot be created: {base} is not a folder. {fix}")
    try:
        with TemporaryFile(dir=base):
            pass
    except OSError as error:
        raise WeightsError(f"{out or folder} cannot be written: {base}: {error.strerror}. {fix}") from None


@contextmanager
def atomic_folder(out: Path) -> Iterator[Path]:
    """Yields a temporary folder, renamed to `out` on success and removed on failure.

    Raises WeightsError if `out` is not free, also if another process wrote it in the meantime.
    """
    check_free(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    with sigterm_unwinds():
        temporary = _temporary(out, Path.mkdir)
        try:
            yield temporary
            check_free(out)
            if out.is_dir():
                out.rmdir()
            temporary.rename(out)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def atomic_file(out: Path) -> Iterator[Path]:
    """Yields the path of a temporary file, renamed to `out` on success and removed on failure.

    Raises WeightsError if `out` is not free, also if another process wrote it in the meantime.
    """
    check_free(out)
    if out.is_dir():
        raise WeightsError(f"{out} is a folder. Name a file.")
    with _temporary_file(out) as temporary:
        yield temporary
        if not _named(temporary, out):
            raise WeightsError(f"{out} exists: another process has written it. Name another path.")


@contextmanager
def replaced_file(path: Path) -> Iterator[Path]:
    """Yields the path of a temporary file, which replaces `path` on success. On failure removes the temporary file and
    leaves `path` unchanged. Only one process at a time may replace a file."""
    temporary = path.with_name(f"{path.name}.partial")
    try:
        with sigterm_unwinds():
            yield temporary
        with temporary.open("rb+") as file:  # a crash of the machine must not leave an empty file
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        error.filename = str(path)  # a failed write names no file; the temporary name would not help the user
        raise
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


@contextmanager
def locked_folder(folder: Path) -> Iterator[None]:
    """Creates a folder if it does not exist, and locks it. Removes the folder at the end if it is empty.

    Raises ConfigError if another process has locked it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock = acquired_lock(folder, "name another folder.")
    try:
        yield
    finally:
        Path(lock.lock_file).unlink(missing_ok=True)
        lock.release()
        with suppress(OSError):  # not empty
            folder.rmdir()


def acquired_lock(folder: Path, fix: str) -> FileLock:
    """Locks a folder, until `release`. Raises ConfigError if another process has locked it. fix: another fix than to
    wait, for the message."""
    path = folder / LOCK
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        holder = path.read_text(encoding="utf-8").strip() or "another process"
        raise ConfigError(f"{folder}: is in use by {holder}. Fix: wait until it ends, or {fix}") from None
    path.write_text(f"process {os.getpid()} on {socket.gethostname()}", encoding="utf-8")
    return lock


def next_free_folder(path: Path) -> Path:
    """Creates the first of `path`, `path-2`, `path-3`, ... that does not exist."""
    numbered = (path.with_name(f"{path.name}-{number}") for number in itertools.count(2))
    return _created(itertools.chain([path], numbered), Path.mkdir)


def write_next_free(path: Path, write: Callable[[Path], object]) -> Path:
    """Writes the first of NAME.html, NAME-2.html, ... that does not exist, and returns its path. path: NAME.html."""
    with _temporary_file(path) as temporary:
        write(temporary)
        numbered = (path.with_name(f"{path.stem}-{number}{path.suffix}") for number in itertools.count(2))
        return next(free for free in itertools.chain([path], numbered) if _named(temporary, free))


@contextmanager
def _temporary_file(out: Path) -> Iterator[Path]:
    """Creates a temporary file next to `out`, with its suffix, from which some writers infer the format."""
    out.parent.mkdir(parents=True, exist_ok=True)
    with sigterm_unwinds():
        temporary = _temporary(out, lambda path: path.touch(exist_ok=False))
        try:
            yield temporary
        finally:
            temporary.unlink(missing_ok=True)


@contextmanager
def sigterm_unwinds() -> Iterator[None]:
    """Makes SIGTERM (`timeout`, `docker stop`) raise SystemExit inside the context, so that temporary files are
    removed.

    No effect outside of the main thread, and in a program that handles SIGTERM itself.
    """
    in_main_thread = threading.current_thread() is threading.main_thread()
    if not in_main_thread or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return
    process = os.getpid()

    def stop(number: int, _: object) -> NoReturn:
        if os.getpid() != process:  # a forked process: the files are its parent's
            os._exit(128 + number)
        raise SystemExit(128 + number)

    signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _temporary(out: Path, create: Callable[[Path], object]) -> Path:
    """Creates a temporary path next to `out`, under the first unused name."""
    names = (f"{out.stem}.partial{number or ''}{out.suffix}" for number in itertools.count())
    return _created(map(out.with_name, names), create)


def _created(paths: Iterable[Path], create: Callable[[Path], object]) -> Path:
    """Creates the first of an infinite number of paths that does not exist."""
    for path in paths:
        with suppress(FileExistsError):  # another process may have just created it
            create(path)
            return path
    raise AssertionError


def _named(temporary: Path, out: Path) -> bool:
    """Renames a file; returns False if the name is taken. Unlike `rename`, it never replaces a file."""
    try:
        os.link(temporary, out)
    except FileExistsError:
        return False
    except OSError:  # no hard links on this disk
        try:
            out.touch(exist_ok=False)
        except FileExistsError:
            return False
        temporary.replace(out)
    return True
