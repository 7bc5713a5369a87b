"""The parts of a prediction by several processes: which images each has, and the process that owns it."""

import json
import os
import shutil
import socket
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from densevit.cli.input_images import ImageFile
from densevit.errors import DensevitError

BEAT, SILENT = 5.0, 60.0  # seconds between signs of an owner, and without a sign until it counts as ended
RUNNING, STOPPED, COMPLETE, NEW = "running", "stopped", "complete", "not begun"
PARTS = "parts"  # the folder of all parts, and the key of their number in predict.json
DIVISION = (PARTS, "batch_size", "list")  # the keys of a prediction in parts


class PartState(NamedTuple):
    """The state of a part. owners: the number of processes that have owned it. owner: the last one, as text. images,
    failed: the numbers of predicted and unreadable images."""

    name: str = NEW
    owners: int = 0
    owner: str = ""
    images: int = 0
    failed: int = 0


class Part:
    """One of `count` parts of a list of images; `number` is from 1. `folder` has the files of all its images.

    The process that creates owner-K.json owns the part: a file is created by one process only, also on network file
    systems, where locks may have no effect. It writes a sign to the file every 5 seconds; K + 1 takes the part over if
    K has ended.
    """

    def __init__(self, predictions: Path, number: int, count: int) -> None:
        self.number, self.count = number, count
        self.folder = predictions / PARTS / f"{number:0{len(str(count))}}-of-{count}"

    def __str__(self) -> str:
        return f"part {self.number} of {self.count}"

    def of(self, images: Sequence[ImageFile], block: int) -> Sequence[ImageFile]:
        """Returns the images of this part, in whole blocks of the list."""
        blocks = -(-len(images) // block)
        first, last = (blocks * n // self.count * block for n in (self.number - 1, self.number))
        return images[first:last]

    def state(self) -> PartState:
        """The state at this moment. An owner on another machine counts as ended after a minute without a sign."""
        files = self._owners()
        if not files:
            return PartState()
        saved: dict[str, Any] = {"process": ["another machine", "", 0], "state": RUNNING, "images": 0, "failed": 0}
        with suppress(ValueError):  # created a moment ago
            saved = json.loads(files[-1].read_text(encoding="utf-8"))
        name = saved["state"]
        if name == RUNNING and (_has_ended(saved["process"]) or self._silence(files[-1]) > SILENT):
            name = STOPPED
        host, _, number = saved["process"]
        return PartState(name, len(files), f"process {number} on {host}", saved["images"], saved["failed"])

    def take(self, after: PartState) -> "Owner | None":
        """Makes this process the owner. Returns None if another process was first. after: the state, whose owner has
        ended."""
        self.folder.mkdir(parents=True, exist_ok=True)
        try:
            return Owner(self, after.owners + 1)
        except FileExistsError:
            return None

    def owner_file(self, number: int) -> Path:
        return self.folder / f"owner-{number:06}.json"

    def _owners(self) -> list[Path]:
        return sorted(self.folder.glob("owner-[0-9]*.json"))

    def _silence(self, file: Path) -> float:
        """The seconds since a file was written, by the clock of the file system."""
        clock = self.folder / "clock"
        with suppress(OSError):  # the folder of another user
            clock.touch()
            return clock.stat().st_mtime - file.stat().st_mtime
        return time.time() - file.stat().st_mtime


def remove_parts(predictions: Path) -> None:
    """Removes the folders of parts, and nothing else: a head may be called "parts"."""
    for folder in (predictions / PARTS).glob("*-of-*"):
        shutil.rmtree(folder, ignore_errors=True)
    with suppress(OSError):  # none, or that of a head
        (predictions / PARTS).rmdir()


class Owner:
    """This process as the owner of a part. images, failed: the numbers to publish. complete: whether all is predicted.

    Raises FileExistsError if another process owns it by this number.
    """

    def __init__(self, part: Part, number: int) -> None:
        self.images = self.failed = 0
        self.complete = self._lost = False
        self._part, self._file, self._next = part, part.owner_file(number), part.owner_file(number + 1)
        self._file.open("x").close()
        self._publish(RUNNING)
        self._ended = threading.Event()
        self._beats = threading.Thread(target=self._beat, daemon=True)
        self._beats.start()

    def check(self) -> None:
        """Raises DensevitError if another process has taken the part over, as after a long halt of this one."""
        if self._lost:
            raise DensevitError(
                f"{self._part}: another process has taken it over, because this one gave no sign for {SILENT:g} "
                "seconds. This one stops; nothing is lost."
            )

    def close(self) -> None:
        """Publishes that the part is complete, or can be taken over."""
        self._ended.set()
        self._beats.join()
        self._publish(COMPLETE if self.complete else STOPPED)

    def _beat(self) -> None:
        while not self._ended.wait(BEAT):
            with suppress(OSError):  # a full disk stops the writing of predictions, with its message
                self._lost = self._next.exists()
                self._publish(RUNNING)

    def _publish(self, state: str) -> None:
        values = {"process": _this_process(), "state": state, "images": self.images, "failed": self.failed}
        partial = self._file.with_suffix(".partial")
        partial.write_text(json.dumps(values), encoding="utf-8")
        partial.replace(self._file)


def _this_process() -> list[str | int]:
    """The machine, the space of its process numbers (containers may share a name), and the number."""
    space = os.readlink("/proc/self/ns/pid") if os.path.lexists("/proc/self/ns/pid") else ""
    return [socket.gethostname(), space, os.getpid()]


def _has_ended(process: Sequence[str | int]) -> bool:
    """Whether a process of this machine does not exist any more."""
    if [*process[:2]] != _this_process()[:2] or os.name != "posix":
        return False
    try:
        os.kill(int(process[2]), 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        pass
    return False
