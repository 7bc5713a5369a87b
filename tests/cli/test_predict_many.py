"""`densevit predict` for many images: writing beside predicting, drawn images, failures, lowest scores, subfolders."""

import csv
import errno
import io
import json
import os
import signal
import subprocess
import sys
import threading
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from densevit.cli import main
from densevit.cli.background_writer import BackgroundWriter
from densevit.cli.input_images import ImageFile, find_images
from densevit.cli.prediction_entries import json_lines
from densevit.cli.prediction_files import PredictionFiles
from densevit.data.io.images import read_image
from densevit.errors import DensevitError
from densevit.targets.types import TargetTypes, above_threshold
from tests.cli.stand_in import StandIn, read, write_video

ALL = ["predict", "run", "a", "b", "--batch-size", "1"]
NAMES = ["a/1.jpg", "b/000139.jpg", "b/1.jpg", "b/cat.png"]  # in the order of the list
Captured = pytest.CaptureFixture[str]
Patch = pytest.MonkeyPatch


def contents(folder: str) -> dict[str, bytes]:
    """The files of a folder, without predict.json."""
    files = [path for path in Path(folder).rglob("*") if path.is_file() and path.name != "predict.json"]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def written(folder: str) -> list[str]:
    return [image["file_name"] for image in read(f"{folder}/images.json")]


def failed(folder: str) -> list[list[str]]:
    with Path(folder, "failed.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.reader(file))


def before_encoding(monkeypatch: Patch, called: Callable[[ImageFile], None]) -> None:
    encode = PredictionFiles.encode

    def patched(self: PredictionFiles, file: ImageFile, *given: Any) -> Any:
        called(file)
        return encode(self, file, *given)

    monkeypatch.setattr(PredictionFiles, "encode", patched)


def test_images_are_encoded_while_the_next_ones_are_predicted(model: StandIn, photos: Path, monkeypatch: Patch):
    """The first image is encoded only once the second chunk is predicted."""
    monkeypatch.setattr("densevit.cli.prediction_run.BATCHES_AT_ONCE", 1)
    predict, second, waited = model.predict, threading.Event(), []

    def predicted(images: list[np.ndarray], *given: Any, **options: Any) -> list[Any]:
        if model.batches:
            second.set()
        return predict(images, *given, **options)

    monkeypatch.setattr(model, "predict", predicted)
    before_encoding(monkeypatch, lambda file: waited.append(second.wait(60)))
    assert main([*ALL, "--out", "found"]) == 0
    assert waited == [True] * 4


def test_adding_waits_while_too_many_images_are_not_written():
    gate, added, order = threading.Event(), list[int](), list[int]()

    class Files:
        def encode(self, image: ImageFile, *given: Any) -> int:
            gate.wait(60)
            return image.place

        def append(self, place: int) -> str:
            order.append(place)
            return str(place)

    texts: list[str] = []

    def add() -> None:
        files: Any = Files()
        with BackgroundWriter(files, 2, lambda image, text: texts.append(f"{image.name} {text}")) as writer:
            for n in range(5):
                writer.add(ImageFile("a", "name", n, place=n), np.zeros((1, 1, 3), np.uint8), {})
                added.append(n)

    thread = threading.Thread(target=add)
    thread.start()
    thread.join(0.5)
    assert added == [0, 1], "the third one waits"
    gate.set()
    thread.join(60)
    assert added == order == [0, 1, 2, 3, 4] and texts == [f"name {n}" for n in range(5)]


def test_files_equal_those_of_one_thread(model: StandIn, photos: Path, monkeypatch: Patch):
    images = find_images(["a", "b"])
    with PredictionFiles(Path("one"), model.classes, {"detection": 0.5}) as files:
        for image in images:
            files.add(image, pixels := read_image(image.path), model.see(*pixels.shape[:2]))
    before_encoding(monkeypatch, lambda file: time.sleep(0.02 * (4 - file.place)))  # the last is encoded first
    assert main([*ALL, "--out", "found"]) == 0
    assert contents("found") == contents("one")
    assert written("found") == NAMES


@pytest.mark.parametrize(
    "entries",
    [
        [],
        [{"image_id": 7, "score": 1 / 3}],
        [{"image_id": 'a}, {"image_id": b', "bbox": [0.1, 2.0]}, {"image_id": 'a}, {"image_id": b'}, {"image_id": "ü"}],
        [{"image_id": 1, "parts": [{"image_id": 2}, {"image_id": 3}]}, {"image_id": 1}],
    ],
)
def test_lines_of_entries_are_those_of_json(entries: list[dict[str, Any]]):
    assert json_lines(entries).split("\n") == ",\n".join(map(json.dumps, entries)).split("\n")


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (DensevitError("b/1.jpg: cannot be drawn"), "b/1.jpg: cannot be drawn"),
        (OSError(errno.ENOSPC, "No space left on device", "found/drawn/b-1.jpg"), "No space left on device"),
    ],
)
def test_first_error_of_writing_ends_the_run(model, photos, monkeypatch, capsys, error, message):
    """The images before it are written, no image after it is, and the run can be continued."""

    def fail(file: ImageFile) -> None:
        if file.file_name == "b/1.jpg":
            raise error
        if file.file_name == "b/cat.png":
            raise DensevitError("another error")

    with monkeypatch.context() as patch:
        before_encoding(patch, fail)
        assert main([*ALL, "--out", "found"]) == 2
    said = capsys.readouterr().err
    assert message in said and "another error" not in said
    assert written("found") == NAMES[:2] and len(read("found/predictions.json")) == 4
    assert main([*ALL, "--out", "found", "--resume"]) == 0
    assert main([*ALL, "--out", "once"]) == 0
    assert contents("found") == contents("once")


@pytest.mark.parametrize(
    ("options", "drawn", "line"),
    [
        (["--draw", "none"], [], ""),
        (["--draw", "2"], ["000139.jpg", "a-1.jpg"], ""),
        (["--draw", "all"], ["000139.jpg", "a-1.jpg", "b-1.jpg", "cat.jpg"], ""),
        ([], ["a-1.jpg"], "The first 1 of 4 images are drawn. For others: --draw all or --draw N"),
    ],
)
def test_first_images_are_drawn(model, photos, monkeypatch, capsys, options, drawn, line):
    monkeypatch.setattr("densevit.cli.prediction_run._ALL_DRAWN", 3)
    monkeypatch.setattr("densevit.cli.prediction_run._FIRST_DRAWN", 1)
    assert main([*ALL, "--out", "found", *options]) == 0
    assert sorted(path.name for path in Path("found").glob("drawn/*")) == drawn
    assert line in (said := capsys.readouterr().out) and ("are drawn" in said) == bool(line)
    assert written("found") == NAMES


def test_failures_are_listed_and_tried_again(model: StandIn, photos: Path, capsys: Captured):
    good = Path("b/cat.png").read_bytes()
    Path("b/cat.png").write_bytes(good[:50])
    Path("b/=1.jpg").write_text("no image")
    assert main([*ALL, "--out", "found"]) == 1
    head, *rows = failed("found")
    assert head == ["image", "reason"] and [row[0] for row in rows] == ["b/=1.jpg", "b/cat.png"]
    assert all(reason.startswith(name) for name, reason in rows)
    assert "3 of 5 images; 2 could not be read, see failed.csv" in capsys.readouterr().out
    assert main([*ALL, "--out", "found", "--resume", "--max-failed", "1"]) == 1
    assert main([*ALL, "--out", "found", "--resume", "--max-failed", "2"]) == 0
    assert failed("found") == [head, *rows]
    Path("b/cat.png").write_bytes(good)
    assert main([*ALL, "--out", "found", "--resume", "--max-failed", "1"]) == 0
    assert failed("found") == [head, rows[0]]
    Path("b/=1.jpg").unlink()
    capsys.readouterr()
    assert main([*ALL, "--out", "found", "--resume"]) == 0
    assert not Path("found/failed.csv").exists() and written("found") == NAMES


KILLED = """
import os, signal, sys
from densevit.cli import main, prediction_run
from densevit.inference import loading
from tests.cli.stand_in import StandIn

class Killed(StandIn):
    def predict(self, images, *given, **options):
        if sum(self.batches) == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().predict(images, *given, **options)

prediction_run.BATCHES_AT_ONCE = 1
loading.load = lambda *given: Killed(("detection",))
main(sys.argv[1:])
"""


@pytest.mark.skipif(os.name == "nt", reason="no SIGKILL")
def test_a_killed_process_is_continued_with_its_failures(model: StandIn, photos: Path):
    good = Path("a/1.jpg").read_bytes()
    Path("a/1.jpg").write_text("no image")
    root = Path(__file__).parents[2]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(root), *sys.path])}
    process = subprocess.run([sys.executable, "-c", KILLED, *ALL, "--out", "found"], env=environment, check=False)
    assert process.returncode == -signal.SIGKILL
    assert [row[0] for row in failed("found")] == ["image", "a/1.jpg"]
    Path("a/1.jpg").write_bytes(good)
    assert main([*ALL, "--out", "found", "--resume"]) == 0
    assert main([*ALL, "--out", "once"]) == 0
    resumed, once = contents("found"), contents("once")
    assert sorted(written("found")) == sorted(NAMES) and resumed.keys() == once.keys()
    lists = {"images.json", "predictions.json", "predictions.csv"}  # in the order in which images were written
    assert {name: data for name, data in resumed.items() if name not in lists} == {
        name: data for name, data in once.items() if name not in lists
    }
    for name in ("images.json", "predictions.json"):
        assert sorted(map(str, read(f"found/{name}"))) == sorted(map(str, read(f"once/{name}")))


def test_objects_below_the_lowest_score_are_in_no_file(model, photos, monkeypatch, capsys):
    def predict(images: list[np.ndarray], given: dict[str, float], *rest: Any, **options: Any) -> list[Any]:
        results = [model.see(*image.shape[:2]) for image in images]
        return [above_threshold(result, given["detection"], TargetTypes()) for result in results]

    monkeypatch.setattr(model, "predict", predict)
    assert main([*ALL, "--out", "found", "--min-score", "0.3"]) == 0
    assert [entry["score"] for entry in read("found/predictions.json")] == [0.75] * 4
    assert "predictions.json: all 4 of score 0.3 or more" in capsys.readouterr().out
    assert main([*ALL, "--out", "found", "--min-score", "0.2", "--resume"]) == 2
    assert "min_score is 0.2, was 0.3" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--min-score", "2"], "--min-score is 2.0; a score from 0 to 1 is expected"),
        (["--min-score", "0.6", "--threshold", "0.5"], "--min-score is 0.6, above the threshold 0.5 (--threshold)"),
        (["--min-score", "0.6"], "--min-score is 0.6, above the threshold 0.5 (the default"),
        (["--max-failed", "-1"], "--max-failed is -1; a number of images is expected, at least 0"),
        (["--draw", "some"], "argument --draw: 'some' is not all, none or a number of images such as 100"),
        (["--draw", "3", "--video"], "--draw: with --video, all frames are drawn. Fix: leave --draw or --video out"),
    ],
)
def test_wrong_options_are_refused_before_writing(model, photos, capsys, options, message):
    assert main([*ALL, "--out", "found", *options]) == 2
    assert message in " ".join(capsys.readouterr().err.split())
    assert not Path("found").exists()


def test_names_of_more_than_10000_images_are_in_subfolders(monkeypatch: Patch):
    for count, expected in ((10_000, ("0", "9999")), (10_001, ("0000/0", "0010/10000"))):
        monkeypatch.setattr("sys.stdin", io.StringIO("\n".join(f"none/{n}.jpg" for n in range(count))))
        images = find_images(["-"])
        assert (images[0].name, images[-1].name) == expected
        assert [image.image_id for image in images] == [image.place for image in images] == [*range(count)]


def test_listed_images_are_not_looked_up_and_take_less_than_1_kb(photos: Path, monkeypatch: Patch):
    """Names and ids come from the paths, whether there is such a file or not."""
    listed = ["a/1.jpg", "./a/1.jpg", "none/1.jpg", "none/7.png", "none/../x.tif"]
    names = [f"none/{n % 100:03}/image_{n:09}.jpg" for n in range(5_000)]
    monkeypatch.setattr("sys.stdin", io.StringIO("\n".join(listed + names)))

    def looked_up(path: Any, *given: Any, **options: Any) -> Any:
        raise AssertionError(f"{path} is looked up")

    tracemalloc.start()
    try:
        with monkeypatch.context() as patch:
            for name in ("os.stat", "os.lstat", "io.open", "builtins.open"):
                patch.setattr(name, looked_up)
            images = find_images(["-"])
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert [(image.file_name, image.name, image.image_id) for image in images[:5]] == [
        ("a/1.jpg", "a-1", "a/1.jpg"),
        ("none/1.jpg", "none-1", "none/1.jpg"),
        ("none/7.png", "7", 7),
        ("none/../x.tif", "x", "x.tif"),
        (names[0], "image_000000000", "image_000000000.jpg"),
    ]
    assert len(images) == 5_004 and peak < 1_000 * len(images)


def test_drawings_maps_and_clouds_of_many_images_are_in_subfolders(photos: Path, monkeypatch: Patch):
    monkeypatch.setattr("densevit.cli.input_images.MAX_IN_FOLDER", 3)
    monkeypatch.setattr("densevit.cli.input_images.PER_SUBFOLDER", 2)

    class Depth(StandIn):
        def see(self, height: int, width: int) -> Any:
            return {"depth": torch.ones(height, width)}

    monkeypatch.setattr("densevit.inference.loading.load", lambda *given: Depth(("depth",)))
    assert main([*ALL, "--out", "found", "--focal", "50"]) == 0
    stems = ("0000/a-1", "0000/000139", "0001/b-1", "0001/cat")
    kinds = (("drawn", ".jpg"), ("depth", ".png"), ("depth", ".npy"), ("clouds", ".ply"))
    expected = {f"{folder}/{stem}{suffix}" for folder, suffix in kinds for stem in stems} | {"images.json"}
    assert contents("found").keys() == expected
    assert [image["id"] for image in read("found/images.json")] == ["a/1.jpg", 139, "b/1.jpg", "cat.png"]
    write_video(Path("clip.mp4"), [np.zeros((48, 64, 3), np.uint8)] * 5)
    assert main(["predict", "run", "clip.mp4", "--video", "--out", "video"]) == 0
    assert [path.as_posix() for path in Path("video/drawn").rglob("*")] == ["video/drawn/clip.mp4"]
    assert [image["id"] for image in read("video/images.json")] == [f"clip_{n:06}" for n in range(5)]
    assert Path("video/depth/0002/clip_000004.png").is_file()
