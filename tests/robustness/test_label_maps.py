"""Folders of images and label maps with one error each, and invalid options of that data set."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.robustness.conftest import SIZES

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


def remove(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


def all_ignored(split: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        for i, size in enumerate(SIZES):
            save(folder / f"labels/{split}/{i}.png", np.full(size, 255, np.uint8))

    return change


def emptied(kind: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        for path in (folder / kind / "train").iterdir():
            path.unlink()

    return change


LABEL = "labels/train/0.png"
WRONG = {
    "16 bits": (label(700, np.uint16), (LABEL, "700 in 2,240 pixels")),
    "another size": (label(0, size=(20, 28)), ("images/train/0.png", "56 x 40", LABEL, "28 x 20")),
    "a missing label": (remove(LABEL), ("0", "label")),
    "a missing image": (remove("images/train/1.png"), ("1", "no image")),
    "no file at all": (lambda f: (emptied("labels")(f), emptied("images")(f)), ("images/train",)),
    "every pixel ignored": (all_ignored("train"), (LABEL, "every pixel is ignored", "'train'")),
}
OPTIONS = {
    "a class without a name": (["data.classes=[{id: 0},tree]"], ("data.classes[0]", "name")),
    "an unknown key of a class": (["data.classes=[{name: road, idd: 1},tree]"], ("data.classes[0].idd", "id or ids")),
    "an id of 70,000": (["data.classes=[{name: road, id: 70000},tree]"], ("70000", "0 to 65535")),
    "an unknown root": (["data.root=nowhere"], ("data.root", "nowhere")),
    "a pattern that meets nothing": (["data.images=images/{split}/*.gif"], ("*.gif",)),
    "an unknown option": (["data.imags=a"], ("data.imags", "Did you mean 'images'")),
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
