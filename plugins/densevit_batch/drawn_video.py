"""Drawn frames of a video as an MP4 file."""

import warnings
from pathlib import Path

import cv2
import numpy as np

from densevit.data.io.videos import opened
from densevit.errors import DensevitError
from densevit_batch.image_file import count_frames

_UNKNOWN_RATE = 25.0  # frames per second
_LARGEST_RATE = 1000.0  # a larger number is the time base of a file without a rate


class DrawnVideo:
    """Writes frames to an MP4 file (MPEG-4) as they come; `close` completes it.

    path: the path of the file, NAME.mp4. source: the original video; the file has its frames per second, rounded to two
    decimals. All frames get the size of the first frame, rounded up to even sides for MPEG-4: larger frames are cut,
    smaller frames are padded with copies of their last row and column.
    """

    def __init__(self, path: Path, source: Path) -> None:
        self.path, self.source, self.count = path, source, 0
        self._partial = path.with_name(f"{path.stem}.partial{path.suffix}")
        self._writer: cv2.VideoWriter | None = None

    def add(self, frame: np.ndarray) -> None:
        """Writes a frame, (H, W, 3) uint8, RGB."""
        if self._writer is None:
            self._size = (-(-frame.shape[0] // 2) * 2, -(-frame.shape[1] // 2) * 2)
            self._partial.touch()  # raises where OpenCV would be silent
            self._writer = self._opened(*self._size)
        height, width = self._size
        cut = frame[:height, :width]
        padded = cv2.copyMakeBorder(
            cut, 0, height - cut.shape[0], 0, width - cut.shape[1], borderType=cv2.BORDER_REPLICATE
        )
        self._writer.write(cv2.cvtColor(padded, cv2.COLOR_RGB2BGR))
        self.count += 1

    def close(self) -> None:
        """Completes the file with the frames so far. Raises DensevitError if frames are missing in it."""
        if self._writer is None:
            return
        self._writer.release()
        self._writer = None
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about missing frames
            written = count_frames(self._partial)  # OpenCV reports no failed write
        if written != self.count:
            self._partial.unlink()
            raise DensevitError(
                f"{self.path}: only {written} of {self.count} frames could be written, so the file is removed. Fix: "
                "check the free space of the disk."
            )
        self._partial.replace(self.path)

    def _opened(self, height: int, width: int) -> cv2.VideoWriter:
        rate = _frame_rate(self.source)
        if rate is None:
            warnings.warn(
                f"{self.source}: its frame rate is not known; {self.path.name} has {_UNKNOWN_RATE:g} frames per "
                "second.",
                stacklevel=2,
            )
        code = cv2.VideoWriter.fourcc(*"mp4v")
        writer = cv2.VideoWriter(str(self._partial), code, round(rate or _UNKNOWN_RATE, 2), (width, height))
        if not writer.isOpened():
            self._partial.unlink()
            raise DensevitError(
                f"{self.path}: OpenCV cannot write a video of {width}x{height} pixels. Fix: leave --video out; each "
                "frame is then drawn to a file."
            )
        return writer


def _frame_rate(path: Path) -> float | None:
    """The frames per second in a video's header; None if they are missing."""
    video = opened(path)
    rate = float(video.get(cv2.CAP_PROP_FPS)) if video.isOpened() else 0.0
    video.release()
    return rate if 0 < rate <= _LARGEST_RATE else None
