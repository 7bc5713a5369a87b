"""Iterates over the images of folders, patterns and videos, as inputs of `Predictor.predict`."""

import glob
import os
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

from densevit.data.io import videos
from densevit.inference.image_files import find_files
from densevit.inference.image_inputs import VideoFrame
from densevit.paths import user_path

T = TypeVar("T")


def images_of(source: Any) -> Iterator[Path | VideoFrame] | None:
    """Iterates over the image files of a folder or a pattern, or the frames of a video, as `densevit predict` does.
    Returns None for other inputs. Frames are decoded lazily.

    Raises DataError for a folder or a pattern without images.
    """
    if not isinstance(source, str | os.PathLike) or "://" in str(source):
        return None
    path = user_path(source)
    is_video = path.suffix.lower() in videos.SUFFIXES and path.is_file()
    is_pattern = isinstance(source, str) and glob.has_magic(source) and not path.exists()
    if not (path.is_dir() or is_video or is_pattern):
        return None
    return _images(find_files(os.fspath(source)))


def chunks(items: Iterator[T], size: int) -> Iterator[Sequence[T]]:
    """Yields the items in lists of this length; the last one may be shorter."""
    while chunk := list(islice(items, size)):
        yield chunk


def _images(files: Sequence[Path]) -> Iterator[Path | VideoFrame]:
    for file in files:
        if file.suffix.lower() in videos.SUFFIXES:
            for number, pixels in enumerate(videos.frames(file)):
                yield VideoFrame(file, number, pixels)
        else:
            yield file
