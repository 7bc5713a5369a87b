"""Drawn videos, of rendered clips: `densevit predict --video`."""

from pathlib import Path
from unittest.mock import Mock

import cv2
import numpy as np

from tests.cli.stand_in import StandIn, dog_and_cat, read, write_video

DOG = (20, 30, 240)  # the colour of the boxes of the model


def clip(path: Path, rate: float = 12.5, size: tuple[int, int] = (96, 128), count: int = 15) -> Path:
    """Frames of (height, width); frame n has the gray value 100 + 3 n."""
    return write_video(path, (np.full((*size, 3), 100 + 3 * n, np.uint8) for n in range(count)), rate)


def frames_of(path: Path) -> tuple[float, np.ndarray]:
    """The frames per second and the frames of a video, (N, H, W, 3) RGB."""
    capture = cv2.VideoCapture(str(path))
    found = []
    while (frame := capture.read())[0]:
        found.append(cv2.cvtColor(frame[1], cv2.COLOR_BGR2RGB))
    return capture.get(cv2.CAP_PROP_FPS), np.array(found).astype(int)


def is_drawn(frame: np.ndarray) -> bool:
    """Whether the frame has the box of the model: it begins at (1, 2)."""
    edge = frame[2:4, 60:120].reshape(-1, 3)  # beside its label
    return bool((np.abs(edge - DOG).sum(1) < 120).mean() > 0.4)


def test_drawn_videos_have_the_frames_size_and_rate_of_their_clips(tmp_path: Path, load_as, run):
    """One for each clip and head."""
    load_as(StandIn(("a", "b")))
    paths, out = [clip(tmp_path / name) for name in ("one.mp4", "two.avi")], tmp_path / "found"
    run("predict", "RUN", *paths, "--video", "--out", out, "--batch-size", "2")
    for head in "ab":
        drawn = sorted((out / head / "drawn").iterdir())
        assert [file.name for file in drawn] == ["one.mp4", "two.mp4"], "no image per frame, nothing partial"
        for rate, frames in map(frames_of, drawn):
            assert frames.shape == (15, 96, 128, 3) and rate == 12.5 and all(map(is_drawn, frames))
            levels = frames[:, 40:80, 40:100].mean((1, 2, 3))
            assert np.abs(levels - (100 + 3 * np.arange(15))).max() < 9, "the frames are in order"
    ids = [image["id"] for image in read(str(out / "images.json"))]
    assert ids == [f"{name}_{n:06}" for name in ("one", "two") for n in range(15)]


def test_an_interrupted_prediction_keeps_a_complete_video(tmp_path, load_as, run):
    load_as(StandIn(("detection",), Mock(side_effect=[*[dog_and_cat(96, 128)] * 8, KeyboardInterrupt])))
    command = ["predict", "RUN", clip(tmp_path / "clip.mp4"), "--video", "--out", tmp_path / "out", "--batch-size", "1"]
    assert "Stopped after 8 of 15 images. drawn/ has these" in run(*command, code=130)
    [video] = (tmp_path / "out" / "drawn").iterdir()
    assert (video.name, len(frames_of(video)[1])) == ("clip.mp4", 8)
