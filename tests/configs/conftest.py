"""Small data sets in the layouts that the recipes read."""

from pathlib import Path

import numpy as np
import pytest

from densevit_scenes.dataset import Scenes
from densevit_workbench.interchange.dataset_writer import write_split
from tests.written_files import save_image

SIZE = (72, 128)


def write_pixels(file: Path, low: int, high: int, kind: type = np.uint8, channels: tuple[int, ...] = ()) -> None:
    """An image of SIZE with random values from low to high - 1."""
    rng = np.random.default_rng(len(str(file)))
    save_image(file, rng.integers(low, high, (*SIZE, *channels)).astype(kind))


@pytest.fixture(scope="session")
def objects(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Boxes in COCO format, in the official layout too."""
    root = tmp_path_factory.mktemp("objects")
    for split in ("train", "val"):
        dataset = Scenes(split, image_size=SIZE, train_length=8, val_length=8)
        assert len(list(write_split(dataset, root, split))) == 8
        (root / f"{split}2017").symlink_to(root / split / "images")
        (root / "annotations" / f"instances_{split}2017.json").symlink_to(root / "annotations" / f"{split}.json")
    return root


@pytest.fixture(scope="session")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images and label PNGs of the values 0 to 2, in CamVid's layout."""
    root = tmp_path_factory.mktemp("labelled")
    for name in ("train/0", "train/1", "train/2", "val/0", "val/1", "val/2"):
        write_pixels(root / "images" / f"{name}.png", 0, 256, channels=(3,))
        write_pixels(root / "labels" / f"{name}.png", 0, 3)
    return root


@pytest.fixture(scope="session")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images and depth maps in millimetres, in one folder."""
    root = tmp_path_factory.mktemp("measured")
    for name in ("train/0", "train/1", "train/2", "val/0", "val/1", "val/2"):
        write_pixels(root / f"{name}.jpg", 0, 256, channels=(3,))
        write_pixels(root / f"{name}.png", 1200, 2800, np.uint16)
    return root


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images of two classes, in one folder each."""
    root = tmp_path_factory.mktemp("photos")
    for name in ("train/cat", "train/dog", "val/cat", "val/dog"):
        for i in range(2):
            write_pixels(root / name / f"{i}.jpg", 0, 256, channels=(3,))
    return root
