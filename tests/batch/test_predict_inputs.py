"""`densevit predict`: videos, lists on stdin, and tables."""

import csv
import io
import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from densevit_batch.image_file import VideoFrames
from tests.cli.stand_in import StandIn, read, write_video


def video(path: Path) -> Path:
    """37 frames of noise; the red of frame n is about 6 n."""
    noise = [np.random.default_rng(n).integers(0, 30, (48, 64, 3), dtype=np.uint8) for n in range(37)]
    for n, frame in enumerate(noise):
        frame[..., 2] = 6 * n
    return write_video(path, noise, 25)


def without_duration(path: Path) -> Path:
    """Replaces a webm's element Duration (0x4489, 8 bytes) by one that is skipped, as in a recorded stream."""
    data = path.read_bytes()
    at = data.index(b"\x44\x89\x88")
    path.write_bytes(data[:at] + b"\xec\x89" + bytes(9) + data[at + 11 :])
    return path


def announced(path: Path) -> int:
    capture = cv2.VideoCapture(str(path))
    return int(capture.get(cv2.CAP_PROP_FRAME_COUNT))


@pytest.mark.parametrize("name", ["clip.webm", "clip.mp4"])
def test_all_frames_are_predicted_whatever_the_file_announces(name, model, tmp_path, run, recwarn):
    is_mp4 = name == "clip.mp4"
    path = video(tmp_path / name) if is_mp4 else without_duration(video(tmp_path / name))
    assert (announced(path) == 37) == is_mp4
    command = ["predict", "run", path, "--out", tmp_path / "found"]
    assert "37 of 37 images" in run(*command)
    assert not [str(warning.message) for warning in recwarn.list if name in str(warning.message)]
    names = [image["file_name"] for image in read(str(tmp_path / "found" / "images.json"))]
    assert names == [f"{path.as_posix()}#{n}" for n in range(37)]
    drawn = sorted(file.name for file in (tmp_path / "found" / "drawn").iterdir())
    assert drawn == [f"clip_{n:06}.jpg" for n in range(37)]
    assert abs(VideoFrames(path, {36}).read(36)[..., 0].mean() - 6 * 36) < 6  # the last one
    assert "37 of 37 images; 0 are left" in run(*command, "--resume")


def test_a_video_that_is_cut_short_is_predicted_up_to_there_with_a_warning(model: StandIn, tmp_path: Path, run) -> None:
    path = video(tmp_path / "clip.avi")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert announced(path) == 37
    with pytest.warns(UserWarning, match=r"clip\.avi: 1\d frames can be decoded, of 37 announced"):
        run("predict", "run", path, "--out", tmp_path / "found")
    capture = cv2.VideoCapture(str(path))
    decoded = sum(capture.read()[0] for _ in range(37))
    assert len(read(str(tmp_path / "found" / "images.json"))) == decoded in range(12, 20)


def test_lines_of_stdin_are_sources(model, photos, monkeypatch, run):
    def predict(lines: str, *options: str, code: int = 0) -> str:
        monkeypatch.setattr("sys.stdin", io.StringIO(lines))
        return run("predict", "run", "-", *options, code=code)

    said = {"out": "found", "images": 2, "threshold": {"detection": 0.5}, "problems": []}
    assert json.loads(predict("b/cat.png\n\na/1.jpg\n", "--out", "found", "--json")) == said
    assert [image["file_name"] for image in read("found/images.json")] == ["b/cat.png", "a/1.jpg"]
    Path("clip.mp4").write_text("no video")
    problems = predict("a/1.jpg\nnone.png\nclip.mp4\n", "--out", "again", code=1)  # the other one is predicted
    assert "none.png" in problems and "clip.mp4: no frame could be read" in problems
    assert len(read("again/images.json")) == 1
    predict("\n", code=2)


def test_objects_above_the_threshold_are_rows_of_a_table(model: StandIn, photos: Path, run) -> None:
    tables = []
    for threshold, images in ((0.1, ["b/cat.png"]), (0.7, ["b/cat.png", "a/1.jpg"]), (1, ["b/cat.png"])):
        run("predict", "run", *images, "--out", f"found{threshold}", "--threshold", threshold)
        with open(f"found{threshold}/predictions.csv", newline="", encoding="utf-8") as file:
            tables.append(list(csv.DictReader(file)))
        assert len(read(f"found{threshold}/predictions.json")) == 2 * len(images), "all"
    assert [row["class"] for row in tables[0]] == ["dog", "cat"] and [len(rows) for rows in tables] == [2, 2, 0]
    first = tables[0][0]
    assert (first["image"], first["image_id"], float(first["score"])) == ("b/cat.png", "cat.png", 0.75)
    assert [float(first[key]) for key in ("x", "y", "width", "height")] == [1, 2, 52, 38]  # 53 x 40 pixels
    assert "add --resume to continue in it" in run("predict", "run", "b/cat.png", "--out", "found1", code=2)
