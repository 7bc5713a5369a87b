"""The number of frames of a video, and its frames by number."""

import threading
import warnings
from collections.abc import Collection
from pathlib import Path

import cv2
import numpy as np

from densevit.data.io.videos import NO_FRAME, opened
from densevit.errors import DataError


def count_frames(path: Path) -> int:
    """Counts the frames that can be decoded; 0 if the file cannot be read as a video. Warns if the header announces
    more.

    Decodes all frames: the header's number is an estimate in MPEG, and missing in a recorded webm.
    """
    video = opened(path)
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


class VideoFrames:
    """Frames of a video by number, for threads that request them approximately in order.

    wanted: the numbers of the frames that will be requested, each once. A decoded frame is kept until it is requested.
    """

    def __init__(self, path: Path, wanted: Collection[int]) -> None:
        self.path, self.wanted = path, wanted
        self._video = opened(path)
        self._lock = threading.Lock()
        self._next = 0
        self._waiting: dict[int, np.ndarray] = {}

    def read(self, number: int) -> np.ndarray:
        """Returns a frame, (H, W, 3) uint8, RGB. Raises DataError if the video ends before it."""
        with self._lock:
            while number >= self._next:
                is_read, frame = self._video.read()
                if not is_read and not self._next:
                    raise DataError(f"{self.path}: {NO_FRAME}")
                if not is_read:
                    raise DataError(f"{self.path}: frame {number} cannot be read; the video ends at {self._next}.")
                if self._next in self.wanted:
                    self._waiting[self._next] = frame
                self._next += 1
            frame = self._waiting.pop(number)
        return cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)
