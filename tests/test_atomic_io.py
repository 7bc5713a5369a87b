"""Atomic writes and locks: several processes at once, and failures in the middle."""

import errno
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from densevit.atomic_io import (
    atomic_file,
    check_free,
    locked_folder,
    next_free_folder,
    replaced_file,
    write_next_free,
)
from densevit.errors import ConfigError, WeightsError

posix = pytest.mark.skipif(sys.platform == "win32", reason="locks and forks as POSIX has them")


def test_folders_and_files_written_at_once_differ_and_are_complete(tmp_path: Path) -> None:
    with ThreadPoolExecutor(16) as pool:
        folders = [*pool.map(lambda _: next_free_folder(tmp_path / "run"), range(64))]
    assert {folder.name for folder in folders} == {"run", *(f"run-{n}" for n in range(2, 65))}

    def write(n: int) -> Path:
        return write_next_free(tmp_path / "page.html", lambda path: path.write_text(str(n) * 1000))

    with ThreadPoolExecutor(16) as pool:
        pages = [*pool.map(write, range(32))]
    assert [page.read_text() for page in pages] == [str(n) * 1000 for n in range(32)]
    names = {path.name for path in tmp_path.iterdir() if path.is_file()}
    assert names == {"page.html", *(f"page-{n}.html" for n in range(2, 33))}


def test_file_of_another_process_is_not_replaced(tmp_path: Path) -> None:
    out = tmp_path / "model.onnx"
    with pytest.raises(WeightsError, match=r"model\.onnx exists: another process"), atomic_file(out) as first:
        first.write_text("first")
        with atomic_file(out) as second:
            assert first != second and second.suffix == ".onnx"
            second.write_text("second")
    assert (out.read_text(), [*tmp_path.iterdir()]) == ("second", [out])


def test_failed_replacement_leaves_the_file_before_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "metrics.json"
    path.write_text("before")
    with pytest.raises(OSError, match="No space") as raised, replaced_file(path) as temporary:
        temporary.write_text("aft")
        raise OSError(errno.ENOSPC, "No space left on device")
    assert raised.value.filename == str(path)
    assert path.read_text() == "before" and [*tmp_path.iterdir()] == [path]
    with replaced_file(path) as temporary:
        temporary.write_text("after")
    assert path.read_text() == "after" and [*tmp_path.iterdir()] == [path]


@posix
@pytest.mark.parametrize(
    ("writer", "number"),
    [("atomic_file", signal.SIGTERM), ("atomic_folder", signal.SIGINT)],
)
def test_a_stopped_process_leaves_no_temporary_file(writer: str, number: signal.Signals, tmp_path: Path) -> None:
    """Also if a file that the process writes lies inside a temporary folder."""
    script = f"""
import pathlib, sys, time
from densevit.atomic_io import {writer}
with {writer}(pathlib.Path(sys.argv[1])) as path:
    (path / "inside" if path.is_dir() else path).write_text("half")
    time.sleep(60)
"""
    process = subprocess.Popen([sys.executable, "-c", script, str(tmp_path / "model.onnx")], stderr=subprocess.DEVNULL)
    while not any(one.is_file() and one.stat().st_size for one in tmp_path.rglob("*")):
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(number)
    assert process.wait(30) == {signal.SIGTERM: 143, signal.SIGINT: -signal.SIGINT}[number]
    assert not [*tmp_path.iterdir()]


@posix
def test_folder_is_held_by_one_writer_and_removed_if_empty(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "out"
    with locked_folder(folder):
        with pytest.raises(ConfigError, match="is in use by process .*, or name another folder"), locked_folder(folder):
            pass
        (folder / "a").write_text("")
    with locked_folder(folder):
        pass
    assert [*folder.iterdir()] == [folder / "a"]
    with locked_folder(tmp_path / "empty"):
        pass
    assert not (tmp_path / "empty").exists()


def test_a_place_is_free_if_it_is_new_or_an_empty_folder(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").touch()
    for free in ("empty", "new", "new/folder"):
        check_free(tmp_path / free)
    for taken, state in (("file", "file exists"), ("", "is not empty")):
        with pytest.raises(WeightsError, match=f"{state}. Name another path"):
            check_free(tmp_path / taken)
