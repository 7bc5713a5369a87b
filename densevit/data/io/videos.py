"""Frames of video files, read in order by OpenCV."""

from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np

from densevit.errors import DataError

SUFFIXES = (".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg")
NO_FRAME = "no frame could be read; expected a video that OpenCV can decode."


def frames(path: Path) -> Iterator[np.ndarray]:
    """Yields all frames of a video in order, (H, W, 3) uint8, RGB. Raises DataError if there is none."""
    video = opened(path)
    try:
        is_read, frame = video.read()
        if not is_read:
            raise DataError(f"{path}: {NO_FRAME}")
        while is_read:
            yield cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)
            is_read, frame = video.read()
    finally:
        video.release()


def opened(path: Path) -> cv2.VideoCapture:
    """Opens a regular file as a video; a FIFO, which may have no end, gives a video that is not opened."""
    return cv2.VideoCapture(str(path)) if path.is_file() else cv2.VideoCapture()
