"""An image of a list: a file, a frame of a video, an image of a URL, or an image in a tar. Frames of videos."""

import os
import threading
import warnings
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from densevit.channels import Channels
from densevit.data.io.images import read_image
from densevit.data.io.tar_members import TarMember
from densevit.data.io.videos import NO_FRAME, opened
from densevit.errors import DataError
from densevit.inference.downloads import download

_KEPT = 2 * (os.cpu_count() or 1) + 8  # frames of a video that wait for their thread


@dataclass(frozen=True, slots=True)
class ImageFile:
    """An image of a list; `read` returns its pixels.

    location: the file's path as text, which takes a tenth of the memory of `Path`. Of an image in a tar,
    PATH.tar/MEMBER. name: the stem of output files, unique among all images of a call; above 10,000 images, in a
    subfolder per 1,000 images: 0012/NAME for the indices 12,000 to 12,999.
    image_id: the id in a COCO json. Otherwise the file's stem as an integer, as in COCO (000000000139.jpg is 139), if
    it is a unique integer; else the file's name, or its path if the name is not unique.
    frame: the number of a frame of a video, from 0; its name and id are NAME_000012. frames: the video's reader. url:
    the address of an image to download, whose path is HOST/FILE. index: the index in the list of all images. member:
    the image in a tar; a DataError, which `read` raises, for a line of a list file that names no image.
    """

    location: str
    name: str
    image_id: int | str
    frame: int | None = None
    url: str | None = None
    index: int = 0
    frames: "VideoFrames | None" = None
    member: TarMember | DataError | None = None

    @property
    def path(self) -> Path:
        return Path(self.location)

    @property
    def file_name(self) -> str:
        """The file's path or the URL; "clip.mp4#12" for a frame."""
        return self.url or self.path.as_posix() + ("" if self.frame is None else f"#{self.frame}")

    def read(self, channels: Channels) -> np.ndarray:
        """Returns the pixels (H, W, C). Raises DataError if the image cannot be read."""
        if isinstance(self.member, DataError):
            raise self.member
        if self.url is not None:
            return read_image(download(self.url), channels, name=self.url)
        if self.member is not None:
            return read_image(self.member.read(), channels, name=self.file_name)
        if self.frames is not None and self.frame is not None:
            return self.frames.read(self.frame)
        return read_image(self.path, channels)


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

    The last frames are kept until they are requested. An earlier frame is decoded from the beginning.
    """

    def __init__(self, path: Path) -> None:
        self.path, self._lock = path, threading.Lock()
        self._video: cv2.VideoCapture | None = None
        self._next, self._waiting = 0, dict[int, np.ndarray]()

    def read(self, number: int) -> np.ndarray:
        """Returns a frame, (H, W, 3) uint8, RGB. Raises DataError if the video ends before it."""
        with self._lock:
            if self._video is None or (number < self._next and number not in self._waiting):
                self._video, self._next = opened(self.path), 0
            while number >= self._next:
                is_read, frame = self._video.read()
                if not is_read and not self._next:
                    raise DataError(f"{self.path}: {NO_FRAME}")
                if not is_read:
                    raise DataError(f"{self.path}: frame {number} cannot be read; the video ends at {self._next}.")
                self._waiting[self._next] = frame
                self._waiting.pop(self._next - _KEPT, None)
                self._next += 1
            frame = self._waiting.pop(number)
        return cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)
