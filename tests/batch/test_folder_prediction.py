"""`densevit predict` for many images: writing beside predicting, drawn images, failures, lowest scores, subfolders."""

import csv
import errno
import os
import re
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from PIL import Image

from densevit.errors import DensevitError
from densevit.inference import iterating
from densevit.inference.iterating import Predicted
from densevit_batch import folder_prediction, prediction_folder
from densevit_batch.folder_prediction import FolderPrediction
from tests.cli.stand_in import StandIn, read

ALL = ["predict", "run", "a", "b", "--batch-size", "1"]
NAMES = ["a/1.jpg", "b/000139.jpg", "b/1.jpg", "b/cat.png"]  # in the order of the list


def contents(folder: str) -> dict[str, bytes]:
    """The files of a folder, without predict.json."""
    files = [path for path in Path(folder).rglob("*") if path.is_file() and path.name != "predict.json"]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def written(folder: str) -> list[str]:
    return [image["file_name"] for image in read(f"{folder}/images.json")]


def failed(folder: str) -> list[list[str]]:
    with Path(folder, "failed.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.reader(file))


@pytest.fixture
def blocks_of_one(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (iterating, folder_prediction, prediction_folder):
        monkeypatch.setattr(module, "BATCHES_AT_ONCE", 1)


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (DensevitError("b/1.jpg: cannot be drawn"), "b/1.jpg: cannot be drawn"),
        (OSError(errno.ENOSPC, "No space left on device", "found/drawn/b-1.jpg"), "No space left on device"),
    ],
)
def test_first_error_of_writing_ends_the_run(model, photos, blocks_of_one, run, error, message, monkeypatch):
    """The run can be continued, with the files of one that was not stopped."""
    errors, write = {"b/1.jpg": error, "b/cat.png": DensevitError("another error")}, FolderPrediction._write

    def failing(self: FolderPrediction, writers: Any, predicted: Predicted) -> Any:
        if predicted.image.file_name in errors:
            raise errors[predicted.image.file_name]
        return write(self, writers, predicted)

    monkeypatch.setattr(FolderPrediction, "_write", failing)
    said = run(*ALL, "--out", "found", code=2)
    assert message in said and "another error" not in said
    errors.clear()
    model.batches.clear()
    run(*ALL, "--out", "found", "--resume")
    assert len(model.batches) == 2, "of four images"
    run(*ALL, "--out", "once")
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
def test_first_images_are_drawn(model, photos, monkeypatch, run, options, drawn, line):
    for name, count in (("ALL_DRAWN", 3), ("FIRST_DRAWN", 1)):
        monkeypatch.setattr(folder_prediction, name, count)
    said = run(*ALL, "--out", "found", *options)
    assert line in said and ("are drawn" in said) == bool(line)
    assert sorted(path.name for path in Path("found").glob("drawn/*")) == drawn and written("found") == NAMES


def test_failures_are_listed_and_tried_again(model: StandIn, photos: Path, run):
    good, more = Path("b/cat.png").read_bytes(), [*ALL, "--out", "found", "--resume"]
    Path("b/cat.png").write_bytes(good[:50])
    Path("b/=1.jpg").write_text("no image")
    assert "3 of 5 images; 2 could not be read, see failed.csv" in run(*ALL, "--out", "found", code=1)
    head, *rows = failed("found")
    assert head == ["image", "reason"] and [row[0] for row in rows] == ["b/=1.jpg", "b/cat.png"]
    assert all(reason.startswith(name) for name, reason in rows)
    run(*more, "--max-failed", "1", code=1)
    run(*more, "--max-failed", "2")
    Path("b/cat.png").write_bytes(good)
    run(*more, "--max-failed", "1")
    assert failed("found") == [head, rows[0]]
    Path("b/=1.jpg").write_bytes(good)
    run(*more)
    run(*ALL, "--out", "once")
    assert contents("found") == contents("once") and written("found") == sorted([*NAMES, "b/=1.jpg"])


WRONG = [
    (["--min-score", "2"], "--min-score is 2.0; a score from 0 to 1 is expected"),
    (["--min-score", "0.6", "--threshold", "0.5"], "--min-score is 0.6, above the threshold 0.5 (--threshold)"),
    (["--max-failed", "-1"], "--max-failed is -1; a number of images is expected, at least 0"),
    (["--draw", "some"], "argument --draw: 'some' is not all, none or a number of images such as 100"),
    (["nowhere"], "nowhere: there is no such file or folder"),
    (["--batch-size", "0"], "--batch-size is 0"),
    (["--device", "nonsense"], "--device nonsense: "),
]


def test_wrong_options_are_refused_before_writing(model, photos, run):
    for options, message in WRONG:
        assert message in run(*ALL, "--out", "found", *options, code=2)
        assert not Path("found").exists()


WRITERS: dict[str, tuple[Any, str]] = {
    "drawings": (Image.Image, "save"),
    "blocks": (Path, "write_bytes"),
    "lists": (os, "fsync"),
}


@pytest.mark.parametrize("writer", WRITERS)
def test_a_full_disk_names_the_folder_or_the_file(writer, model, photos, run, monkeypatch):
    monkeypatch.setattr(*WRITERS[writer], Mock(side_effect=OSError(errno.ENOSPC, "No space left on device")))
    written = run("predict", "model", "b", "--out", "found", code=2)
    assert re.search(r"\bfound(/[\w.]+)?: No space left on device\.$", written)
