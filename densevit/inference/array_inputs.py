"""Image inputs of `predict`: files, folders, patterns, videos, URLs, bytes, file objects, PIL images, arrays,
tensors."""

import glob
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from densevit.channels import RGB, Channels
from densevit.data.datasets.image_files import UNREAD, first_files, image_suffixes, warn_of_unread
from densevit.data.io import videos
from densevit.data.io.channel_files import IMAGES
from densevit.data.io.exif import exif_focal
from densevit.data.io.images import read_image
from densevit.errors import DataError
from densevit.inference.downloads import check_scheme, download
from densevit.interfaces import Sample
from densevit.losses.depth import focal_of
from densevit.paths import user_path

SUFFIXES = (*IMAGES, ".gif", ".ppm", ".pgm")
_UNREAD = {*UNREAD}.difference(SUFFIXES)
_STREAM = re.compile(
    r"(rtsps?|rtmps?|rtp|udp|tcp|srt|mmsh?|hls|v4l2)://|/dev/video|(webcam|camera|cam|screen|\s*\d+\s*)$", re.IGNORECASE
)


@runtime_checkable
class ListedImage(Protocol):
    """An image that is read when it is predicted, with the `path` and `frame` of its `Result`."""

    @property
    def path(self) -> Path: ...

    @property
    def frame(self) -> int | None: ...

    def read(self, channels: Channels) -> np.ndarray:
        """Returns the pixels (H, W, C). Raises DataError if the image cannot be read."""


class VideoFrame(NamedTuple):
    """A frame of a video. frame: its number from 0. pixels: (H, W, 3) uint8."""

    path: Path
    frame: int
    pixels: np.ndarray

    def read(self, channels: Channels) -> np.ndarray:
        return self.pixels


def as_images(inputs: Any) -> tuple[Iterable[Any], bool]:
    """Returns the images of an input of `predict`, and whether it is a single image.

    An array or a tensor with four dimensions is a batch; any other iterable contains images, an iterator perhaps
    without end.
    """
    single = (
        isinstance(inputs, str | os.PathLike | bytes | bytearray | memoryview | Image.Image)
        or hasattr(inputs, "read")
        or not isinstance(inputs, Iterable)
        or (isinstance(inputs, np.ndarray | Tensor) and inputs.ndim != 4)
    )
    return ([inputs] if single else inputs), single


def as_sample(image: Any, image_id: int | str, channels: Channels = RGB) -> Sample:
    """Converts an image to a sample without labels.

    image: a URL, a `ListedImage`, or an input of `read_image`. channels: the model's.
    Raises DataError for other inputs and for unreadable files.
    """
    name = f"image {image_id}"
    if isinstance(image, ListedImage):
        image = image.read(channels)
    if isinstance(image, str):
        _check_no_stream(image)
    if isinstance(image, str) and "://" in image:
        image, name = download(image), image
    elif (path := local_path(image)) is not None:
        if path.is_dir() or (path.suffix.lower() in videos.SUFFIXES and path.is_file()):
            what = "a folder" if path.is_dir() else "a video"
            raise DataError(f"{image} is {what} in a list of images. Fix: pass it alone: predict({str(image)!r}).")
        image = path
    pixels = torch.from_numpy(read_image(image, channels, name=name)).permute(2, 0, 1)
    size = (pixels.shape[1], pixels.shape[2])
    return {"image": pixels, "targets": {"image_id": image_id, "size": size, "original_size": size}}


def focal_target(image: Any, image_id: int | str, focal: float | None) -> dict[str, float]:
    """The target `focal` of an image: `focal`, or else from the EXIF of a file, of its content or of a PIL image.
    Raises DataError if it is unknown."""
    source = image.path if isinstance(image, ListedImage) else local_path(image) or image
    if focal is None and isinstance(source, Path | bytes | Image.Image):
        focal = exif_focal(source)
    target = {} if focal is None else {"focal": focal}
    focal_of({"image_id": str(source) if isinstance(source, Path) else image_id, **target})
    return target


def local_path(image: Any) -> Path | None:
    """The path of an image, with `~` expanded. None for a URL and for other inputs."""
    is_path = isinstance(image, os.PathLike) or (isinstance(image, str) and "://" not in image)
    return user_path(image) if is_path else None


def images_of(source: Any, channels: Channels = RGB) -> Iterator[Path | VideoFrame] | None:
    """Yields the image files of a folder or a pattern, or the frames of a video, as `densevit predict` does. None for
    other inputs. Frames are decoded lazily. channels: the model's.

    Raises DataError for a folder or a pattern without images.
    """
    if (path := local_path(source)) is None:
        return None
    is_video = path.suffix.lower() in videos.SUFFIXES and path.is_file()
    is_pattern = isinstance(source, str) and glob.has_magic(source) and not path.exists()
    if not (path.is_dir() or is_video or is_pattern):
        return None
    return _each_image(find_files(os.fspath(source), channels))


def suffixes_of(channels: Channels) -> tuple[str, ...]:
    """The suffixes of image files for a model with these channels."""
    return image_suffixes(channels, SUFFIXES)


def find_files(source: str, channels: Channels = RGB) -> list[str]:
    """The image and video files of a path, a folder or a pattern; of images with a file per channel, the first
    channel's file. Raises DataError if there are none."""
    if not source.strip():
        raise DataError("'' names no image; expected a file, a folder, a pattern or a URL.")
    _check_no_stream(source)
    if "://" in source:
        check_scheme(source)
    path = user_path(source)
    if path.is_file():
        return [str(path)]
    if path.is_dir():
        return _in_folder(path, source, channels)
    if not glob.has_magic(source):
        raise DataError(f"{source}: there is no such file or folder.")
    suffixes = (*suffixes_of(channels), *videos.SUFFIXES)
    candidates = [match for match in glob.iglob(str(path), recursive=True) if match.lower().endswith(suffixes)]
    matches = {*first_files(candidates, channels)}
    files = (file for folder in {*map(os.path.dirname, matches)} for file in _files_in(folder, suffixes))
    images = sorted(matches.intersection(files), key=lambda file: file.replace(os.sep, "\0"))  # by folder
    if not images:
        raise DataError(f"{source}: the pattern matches no image; expected {_expected(channels)}.")
    return images


def _each_image(files: Sequence[str]) -> Iterator[Path | VideoFrame]:
    for file in map(Path, files):
        if file.suffix.lower() in videos.SUFFIXES:
            for number, pixels in enumerate(videos.frames(file)):
                yield VideoFrame(file, number, pixels)
        else:
            yield file


def _expected(channels: Channels) -> str:
    named = f"names ending in {channels.files[0]!r}, and " if channels.files else ""
    return named + ", ".join(suffixes_of(channels))


def _in_folder(folder: Path, source: str, channels: Channels) -> list[str]:
    """The images of a folder without subfolders. Warns of files in formats that are not read."""
    suffixes = suffixes_of(channels)
    files = sorted(_files_in(str(folder), (*suffixes, *_UNREAD)))
    images = first_files((file for file in files if file.lower().endswith(suffixes)), channels)
    if not images:
        below = any(path.name.lower().endswith(suffixes) and path.is_file() for path in folder.rglob("[!.]*"))
        hint = f" For images in subfolders, use '{folder / '**' / '*.*'}'." if below else ""
        raise DataError(f"{source}: no images in this folder; expected {_expected(channels)}.{hint}")
    other_files = [file for file in files if file.lower().endswith(tuple(_UNREAD))]
    stems = {os.path.splitext(file)[0] for file in images if other_files}
    unread = [os.path.basename(file) for file in other_files if os.path.splitext(file)[0] not in stems]
    warn_of_unread(folder, unread, len(images))
    return images


def _files_in(folder: str, suffixes: tuple[str, ...]) -> Iterator[str]:
    """Yields the files of a folder with these suffixes, without hidden files. Only links are looked up; the folder has
    the type of other files."""
    with os.scandir(folder or os.curdir) as entries:
        for entry in entries:
            if (
                entry.name.lower().endswith(suffixes)
                and not entry.name.startswith(".")
                and (os.path.isfile(entry.path) if entry.is_symlink() else entry.is_file())
            ):
                yield os.path.join(folder, entry.name)


def _check_no_stream(source: str) -> None:
    """Raises DataError for the address of a stream or a camera: `rtsp://...`, `0`, `webcam`, `/dev/video0`."""
    if _STREAM.match(source) and not (user_path(source).is_file() or user_path(source).is_dir()):
        raise DataError(
            f"{source}: streams are not supported. Expected files. Fix: save frames, for example with `ffmpeg -i "
            "SOURCE -vf fps=1 frames/%06d.jpg`, and name that folder; or read frames in Python, and pass each to "
            "model.predict as an RGB array."
        )
