"""Frames of video files, read in order by OpenCV."""

import threading
import warnings
from collections.abc import Collection, Iterator
from pathlib import Path

import cv2
import numpy as np

from densevit.errors import DataError

SUFFIXES = (".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg")
_LARGEST_RATE = 1000.0  # frames per second; a larger number is the time base of a file without a rate
_NO_FRAME = "no frame could be read; expected a video that OpenCV can decode."


def count_frames(path: Path) -> int:
    """Counts the frames that can be decoded; 0 if the file cannot be read as a video. Warns if the header announces
    more.

    Decodes all frames: the header's number is an estimate in MPEG, and missing in a recorded webm.
    """
    video = _opened(path)
    try:
        if not video.isOpened():
            return 0
        announced, count = video.get(cv2.CAP_PROP_FRAME_COUNT), 0
        while video.grab():
            count += 1
    finally:
        video.release()
    if count and announced > count:
        warnings.warn(
            f"{path}: {count} frames can be decoded, of {announced:.0f} announced. Is the file cut short?", stacklevel=2
        )
    return count


def frame_rate(path: Path) -> float | None:
    """Returns the frames per second in a video's header; None if they are missing."""
    video = _opened(path)
    rate = float(video.get(cv2.CAP_PROP_FPS)) if video.isOpened() else 0.0
    video.release()
    return rate if 0 < rate <= _LARGEST_RATE else None


def frames(path: Path) -> Iterator[np.ndarray]:
    """Yields all frames of a video in order, (H, W, 3) uint8, RGB. Raises DataError if there is none."""
    video = _opened(path)
    try:
        is_read, frame = video.read()
        if not is_read:
            raise DataError(f"{path}: {_NO_FRAME}")
        while is_read:
            yield cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)
            is_read, frame = video.read()
    finally:
        video.release()


class VideoFrames:
    """Frames of a video by number, for threads that request them approximately in order.

    wanted: the numbers of the frames that will be requested, each once. A decoded frame is kept until it is requested.
    """

    def __init__(self, path: Path, wanted: Collection[int]) -> None:
        self.path, self.wanted = path, wanted
        self._video = _opened(path)
        self._lock = threading.Lock()
        self._next = 0
        self._waiting: dict[int, np.ndarray] = {}

    def read(self, number: int) -> np.ndarray:
        """Returns a frame, (H, W, 3) uint8, RGB. Raises DataError if the video ends before it."""
        with self._lock:
            while number >= self._next:
                is_read, frame = self._video.read()
                if not is_read and not self._next:
                    raise DataError(f"{self.path}: {_NO_FRAME}")
                if not is_read:
                    raise DataError(f"{self.path}: frame {number} cannot be read; the video ends at {self._next}.")
                if self._next in self.wanted:
                    self._waiting[self._next] = frame
                self._next += 1
            frame = self._waiting.pop(number)
        return cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)


def _opened(path: Path) -> cv2.VideoCapture:
    """Opens a regular file as a video; a FIFO, which may have no end, gives a video that is not opened."""
    return cv2.VideoCapture(str(path)) if path.is_file() else cv2.VideoCapture()
