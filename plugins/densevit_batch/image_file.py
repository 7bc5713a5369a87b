"""An image of a list: a file, a frame of a video, an image of a URL, or an image in a tar."""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from densevit.channels import Channels
from densevit.data.io.images import read_image
from densevit.data.io.tar_members import TarMember
from densevit.errors import DataError
from densevit.inference.downloads import download
from densevit_batch.video_frames import VideoFrames


class Video:
    """A video whose frames are images of a list. frames: the reader of these frames, set by `open_videos`."""

    frames: VideoFrames


@dataclass(frozen=True, slots=True)
class ImageFile:
    """An image of a list; `read` returns its pixels.

    location: the file's path as text, which takes a tenth of the memory of `Path`. Of an image in a tar,
    PATH.tar/MEMBER. name: the stem of output files, unique among all images of a call; above 10,000 images, in a
    subfolder per 1,000 images: 0012/NAME for the indices 12,000 to 12,999.
    image_id: the id in a COCO json. Otherwise the file's stem as an integer, as in COCO (000000000139.jpg is 139), if
    it is a unique integer; else the file's name, or its path if the name is not unique.
    frame: the number of a frame of `video`, from 0; its name and id are NAME_000012. url: the address of an image to
    download, whose path is HOST/FILE. index: the index in the list of all images. member: the image in a tar; a
    DataError, which `read` raises, for a line of a list file that names no image.
    """

    location: str
    name: str
    image_id: int | str
    frame: int | None = None
    url: str | None = None
    index: int = 0
    video: Video | None = None
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
        if self.video is not None and self.frame is not None:
            return self.video.frames.read(self.frame)
        return read_image(self.path, channels)


def open_videos(images: Iterable[ImageFile]) -> None:
    """Prepares the videos of `images`; each frame can then be read once."""
    frames: dict[tuple[Video, str], set[int]] = defaultdict(set)
    for image in images:
        if image.video is not None and image.frame is not None:
            frames[image.video, image.location].add(image.frame)
    for (video, location), wanted in frames.items():
        video.frames = VideoFrames(Path(location), wanted)
