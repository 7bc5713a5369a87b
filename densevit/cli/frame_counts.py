"""The numbers of frames of videos, which are counted once and kept beside the predictions."""

import json
import os
import uuid
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from densevit.data.io import videos
from densevit.data.io.text_files import read_json

FRAME_COUNTS = "videos.json"  # in the folder of the predictions


class CountedVideo(NamedTuple):
    """A video with its number of frames, at least 1, and its size and time of change when they were counted."""

    path: str
    bytes: int
    mtime_ns: int
    frames: int


def count_frames(path: str, kept: Mapping[str, Any]) -> CountedVideo:
    """Returns a video with the number of frames that `kept` has for its size and time of change, or else decodes it."""
    state = os.stat(path)
    match kept.get(path):
        case [state.st_size, state.st_mtime_ns, int(frames)]:
            return CountedVideo(path, state.st_size, state.st_mtime_ns, frames)
    return CountedVideo(path, state.st_size, state.st_mtime_ns, max(1, videos.count_frames(Path(path))))


def kept_counts(file: Path | None) -> dict[str, Any]:
    """Returns {path: [bytes, mtime_ns, frames]}; empty if there is no file. Raises DataError if it is damaged."""
    return dict(read_json(file)) if file is not None and file.is_file() else {}


def keep_counts(counted: Iterable[CountedVideo | None], file: Path) -> None:
    """Adds videos to a file, unless it has them or its folder does not exist. Several processes may do so at once: the
    last one wins, and what it lacks is counted again."""
    kept = kept_counts(file)
    counts = kept | {video.path: [*video[1:]] for video in {*counted} if video is not None}
    if counts != kept and file.parent.is_dir():
        temporary = file.with_name(f"{file.name}.{uuid.uuid4().hex}.partial")  # of this call only
        temporary.write_text(json.dumps(counts) + "\n", encoding="utf-8")
        temporary.replace(file)
