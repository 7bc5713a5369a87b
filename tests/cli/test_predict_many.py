"""`densevit predict` for many images: writing beside predicting, drawn images, failures, lowest scores, subfolders."""

import csv
import errno
import io
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
from densevit.errors import DensevitError
from densevit.inference.folder_prediction import FolderPrediction, PredictionOptions
from densevit.inference.image_file import ImageFile
from densevit.inference.input_images import find_images
from densevit.inference.iterating import Predicted
from densevit.inference.prediction_folder import open_folder
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


def before_writing(monkeypatch: Patch, called: Callable[[ImageFile], None]) -> None:
    """Calls a function before the files of each image are written."""
    write = FolderPrediction._write

    def patched(self: FolderPrediction, writers: Any, predicted: Predicted) -> Any:
        called(predicted.image)
        return write(self, writers, predicted)

    monkeypatch.setattr(FolderPrediction, "_write", patched)


@pytest.fixture
def blocks_of_one(monkeypatch: Patch) -> None:
    for name in ("iterating", "folder_prediction", "prediction_folder"):
        monkeypatch.setattr(f"densevit.inference.{name}.BATCHES_AT_ONCE", 1)


def test_images_are_written_while_the_next_ones_are_predicted(model, photos, blocks_of_one, monkeypatch: Patch):
    """The first image is written only once the second batch is predicted."""
    see, second, waited = model.see, threading.Event(), []

    def seen(height: int, width: int) -> Any:
        if len(model.batches) > 1:
            second.set()
        return see(height, width)

    monkeypatch.setattr(model, "see", seen)
    before_writing(monkeypatch, lambda file: waited.append(second.wait(60)))
    assert main([*ALL, "--out", "found"]) == 0
    assert waited == [True] * 4


def test_predicting_waits_while_a_block_is_not_written(model, photos, blocks_of_one, monkeypatch: Patch):
    """So that memory does not grow."""
    gate, yielded = threading.Event(), list[str]()
    before_writing(monkeypatch, lambda file: gate.wait(60))
    images = find_images(["a", "b"])
    prediction = FolderPrediction(model, images, Path("found"), PredictionOptions("run", ["a", "b"], batch_size=1))
    open_folder(Path("found"), prediction.settings, resume=False)

    def predict() -> None:
        with prediction.part.begun(resume=False):
            yielded.extend(one.image.file_name for one in prediction.predict(prediction.left()))

    thread = threading.Thread(target=predict)
    thread.start()
    thread.join(0.5)
    assert len(yielded) < 3
    gate.set()
    thread.join(60)
    assert yielded == NAMES


def test_entries_are_in_the_order_of_the_list(model: StandIn, photos: Path, monkeypatch: Patch):
    assert main([*ALL, "--out", "one"]) == 0
    before_writing(monkeypatch, lambda file: time.sleep(0.02 * (4 - file.index)))  # the last is written first
    assert main([*ALL, "--out", "found"]) == 0
    assert contents("found") == contents("one")
    assert written("found") == NAMES


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (DensevitError("b/1.jpg: cannot be drawn"), "b/1.jpg: cannot be drawn"),
        (OSError(errno.ENOSPC, "No space left on device", "found/drawn/b-1.jpg"), "No space left on device"),
    ],
)
def test_first_error_of_writing_ends_the_run(model, photos, blocks_of_one, monkeypatch, capsys, error, message):
    """The run can be continued, with the files of one that was not stopped."""

    def fail(file: ImageFile) -> None:
        if file.file_name == "b/1.jpg":
            raise error
        if file.file_name == "b/cat.png":
            raise DensevitError("another error")

    with monkeypatch.context() as patch:
        before_writing(patch, fail)
        assert main([*ALL, "--out", "found"]) == 2
    said = capsys.readouterr().err
    assert message in said and "another error" not in said
    model.batches.clear()
    assert main([*ALL, "--out", "found", "--resume"]) == 0
    assert len(model.batches) == 2, "of four images"
    assert main([*ALL, "--out", "once"]) == 0
    assert contents("found") == contents("once")


@pytest.mark.parametrize(
    ("options", "drawn", "line"),
    [
        (["--draw", "none"], [], ""),
        (["--draw", "2"], ["000139.jpg", "a-1.jpg"], ""),
        (["--draw", "all"], ["000139.jpg", "a-1.jpg", "b-1.jpg", "cat.jpg"], ""),
        ([], ["a-1.jpg"], "The first 1 of 4 images are drawn. To draw more: --draw all or --draw N"),
    ],
)
def test_first_images_are_drawn(model, photos, monkeypatch, capsys, options, drawn, line):
    monkeypatch.setattr("densevit.inference.folder_prediction.ALL_DRAWN", 3)
    monkeypatch.setattr("densevit.inference.folder_prediction.FIRST_DRAWN", 1)
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
    assert sorted(path.name for path in Path("found").iterdir() if path.is_dir()) == ["drawn", "parts"]
    Path("b/=1.jpg").write_bytes(good)
    assert main([*ALL, "--out", "found", "--resume"]) == 0
    assert not Path("found/failed.csv").exists() and written("found") == sorted([*NAMES, "b/=1.jpg"])
    assert not Path("found/parts").exists()
    assert main([*ALL, "--out", "once"]) == 0
    assert contents("found") == contents("once")
    Path("b/=1.jpg").unlink()
    capsys.readouterr()
    assert main([*ALL, "--out", "found", "--resume"]) == 2, "another list"
    assert "list is '4 images, " in capsys.readouterr().err


def test_objects_below_the_lowest_score_are_in_no_file(model, photos, monkeypatch, capsys):
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
        (["--draw", "3", "--video"], "--draw: with --video, all frames are drawn. Fix: leave out --draw or --video"),
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
        assert [image.image_id for image in images] == [image.index for image in images] == [*range(count)]


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
    monkeypatch.setattr("densevit.inference.input_images.MAX_IN_FOLDER", 3)
    monkeypatch.setattr("densevit.inference.input_images.PER_SUBFOLDER", 2)

    class Depth(StandIn):
        def see(self, height: int, width: int) -> Any:
            return {"depth": torch.ones(height, width)}

    monkeypatch.setattr("densevit.inference.model_loading.load", lambda *given: Depth(("depth",)))
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
