"""Folders of images and label maps with one error each, and invalid options of that data set."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.robustness.conftest import SIZES
from tests.robustness.test_images import encoded

TINY = """
backbone: {name: swin, variant: nano, window_size: 4}
heads: {surfaces: {name: setr, decoder: naive, width: 16, auxiliary: []}}
data: {name: label_maps, root: ., classes: [road, tree], image_size: 64, batch_size: 2, num_workers: 0}
trainer: {max_steps: 1, accelerator: cpu, precision: "32"}
"""


@pytest.fixture(autouse=True)
def _labels(folder: Path) -> None:
    """Labels 0, 1 and 255."""
    for split in ("train", "val"):
        for i, size in enumerate(SIZES):
            labels = np.random.default_rng(i).choice(np.array([0, 1, 255], np.uint8), size)
            save(folder / "labels" / split / f"{i}.png", labels)
    (folder / "tiny.yaml").write_text(TINY)


def save(path: Path, pixels: np.ndarray) -> None:
    Image.fromarray(pixels).save(path)


def label(value: int, kind: type = np.uint8, size: tuple[int, int] = SIZES[0]) -> Callable[[Path], None]:
    return lambda folder: save(folder / "labels/train/0.png", np.full(size, value, kind))


def put(name: str, data: bytes) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_bytes(data)


def remove(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


def all_ignored(folder: Path) -> None:
    for i, size in enumerate(SIZES):
        save(folder / f"labels/train/{i}.png", np.full(size, 255, np.uint8))


def emptied(folder: Path) -> None:
    for kind in ("images", "labels"):
        for path in (folder / kind / "train").iterdir():
            path.unlink()


LABEL = "labels/train/0.png"
WRONG = {
    "a value that no class has": (label(7), (LABEL, "7 in 2240 pixels", "Known: 0 to 1; ignored: 255")),
    "another size": (label(0, size=(20, 28)), ("images/train/0.png", "56 x 40", LABEL, "28 x 20")),
    "colours": (lambda f: save(f / LABEL, np.full((40, 56, 3), (1, 2, 3), np.uint8)), (LABEL, "colours")),
    "floating-point numbers": (put(LABEL, encoded("TIFF", "F")), (LABEL, "'F'")),
    "a missing label": (remove(LABEL), ("0", "label")),
    "a missing image": (remove("images/train/1.png"), ("1", "no image")),
    "no file at all": (emptied, ("images/train",)),
    "a damaged image": (put("images/train/0.png", encoded("PNG")[:300]), ("images/train/0.png",)),
    "every pixel ignored": (all_ignored, (LABEL, "every pixel is ignored", "'train'")),
}
OPTIONS = {
    "no classes": (["data.classes=[]"], ("data.classes has 0 classes",)),
    "a class twice": (["data.classes=[road,road]"], ("data.classes", "'road' occurs twice")),
    "an unknown key of a class": (["data.classes=[{name: road, idd: 1},tree]"], ("idd", "Did you mean 'id'")),
    "an id below zero": (["data.classes=[{name: road, id: -1},tree]"], ("data.classes[0]", "-1")),
    "an id twice": (["data.classes=[{name: road, id: 1},{name: tree, id: 1}]"], ("id 1", "twice")),
    "a colour of two": (["data.classes=[{name: road, color: [1,2]},tree]"], ("[1, 2]", "[red, green, blue]")),
    "id and ids": (["data.classes=[{name: road, id: 1, ids: [2]},tree]"], ("`id`", "`ids`")),
    "ignore_index of a class": (["data.ignore_index=0"], ("0", "ignored")),
    "ignore_index below zero": (["data.ignore_index=-1"], ("data.ignore_index is -1",)),
    "splits of a list": (["data.splits=[a,b]"], ("data.splits",)),
    "an unknown root": (["data.root=nowhere"], ("data.root", "nowhere")),
    "a pattern that meets nothing": (["data.images=images/{split}/*.gif"], ("*.gif",)),
    "a list file that is missing": (["data.list_file=list.txt"], ("list.txt",)),
}


@pytest.mark.parametrize("case", WRONG)
def test_invalid_file_is_refused(case, folder, refused):
    change, says = WRONG[case]
    change(folder)
    refused("train", "tiny.yaml", says=says)


@pytest.mark.parametrize("case", OPTIONS)
def test_invalid_option_is_refused(case, folder, refused):
    options, says = OPTIONS[case]
    refused("train", "tiny.yaml", *options, says=says)


def test_empty_list_file_is_refused(folder, refused):
    (folder / "list.txt").write_text("\n\n")
    refused("train", "tiny.yaml", "data.list_file=list.txt", says=("list.txt",))
    (folder / "list.txt").write_text("0\n9\n")
    refused("train", "tiny.yaml", "data.list_file=list.txt", says=("list.txt", "9"))
    (folder / "list.txt").write_bytes(b"\xff\xfe\x00")
    refused("train", "tiny.yaml", "data.list_file=list.txt", says=("list.txt",))
