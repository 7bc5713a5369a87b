"""Drawn frames of a video as an MP4 file."""

import warnings
from pathlib import Path

import cv2
import numpy as np

from densevit.data.io.videos import opened
from densevit.errors import DensevitError
from densevit.interfaces import Size
from densevit_batch.image_file import count_frames

_UNKNOWN_RATE = 25.0  # frames per second
_LARGEST_RATE = 1000.0  # a larger number is the time base of a file without a rate


class DrawnVideo:
    """Writes frames to an MP4 file (MPEG-4) as they come; `close` completes it.

    path: the path of the file, NAME.mp4. source: the original video; the file has its frames per second, rounded to two
    decimals. size: (H, W), of the first frame, rounded up to even sides for MPEG-4: larger frames are cut, smaller
    frames are padded with copies of their last row and column.
    """

    def __init__(self, path: Path, source: Path, size: Size) -> None:
        self.path, self.count = path, 0
        self._size = height, width = -(-size[0] // 2) * 2, -(-size[1] // 2) * 2
        self._partial = path.with_name(f"{path.stem}.partial{path.suffix}")
        self._partial.touch()  # raises where OpenCV would be silent
        rate = _frame_rate(source)
        if rate is None:
            warnings.warn(
                f"{source}: its frame rate is not known; {path.name} has {_UNKNOWN_RATE:g} frames per second.",
                stacklevel=2,
            )
        code = cv2.VideoWriter.fourcc(*"mp4v")
        self._writer = cv2.VideoWriter(str(self._partial), code, round(rate or _UNKNOWN_RATE, 2), (width, height))
        if not self._writer.isOpened():
            self._partial.unlink()
            raise DensevitError(
                f"{path}: OpenCV cannot write a video of {width}x{height} pixels. Fix: leave --video out; each frame "
                "is then drawn to a file."
            )

    def add(self, frame: np.ndarray) -> None:
        """Writes a frame, (H, W, 3) uint8, RGB."""
        cut = frame[: self._size[0], : self._size[1]]
        below, right = self._size[0] - cut.shape[0], self._size[1] - cut.shape[1]
        padded = cv2.copyMakeBorder(cut, 0, below, 0, right, borderType=cv2.BORDER_REPLICATE)
        self._writer.write(cv2.cvtColor(padded, cv2.COLOR_RGB2BGR))
        self.count += 1

    def close(self) -> None:
        """Completes the file with the frames so far. Raises DensevitError if frames are missing in it."""
        self._writer.release()
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


def _frame_rate(path: Path) -> float | None:
    """The frames per second in a video's header; None if they are missing."""
    video = opened(path)
    rate = float(video.get(cv2.CAP_PROP_FPS)) if video.isOpened() else 0.0
    video.release()
    return rate if 0 < rate <= _LARGEST_RATE else None
