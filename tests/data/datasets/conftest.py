"""Files of data sets: images, label maps and depth maps, written below the test's folder."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from densevit.data.datasets import coco_annotations, measured_images
from densevit.data.datasets.file_checks import check_files
from densevit.errors import warn_once
from densevit.interfaces import Dataset
from tests.data.coco_folder import noise
from tests.written_files import save_image, write_text

Write = Callable[..., Path]
LABEL = np.array([[0, 0, 1, 1], [2, 2, 1, 255], [2, 0, 0, 1]], np.uint8)  # 3 high, 4 wide
MILLIMETRES = np.array([[0, 1500, 2000, 2500], [1000, 3000, 65535, 0], [500, 2000, 2000, 2000]], np.uint16)
METRES = [[0, 1.5, 2, 2.5], [1, 3, 65.535, 0], [0.5, 2, 2, 2]]


def checked(kind: Callable[..., Any], /, *args: Any, **options: Any) -> Any:
    """A data set whose files are checked as at the start of a training."""
    dataset = kind(*args, **options)
    check_files(dataset)
    return dataset


def opened(kind: Callable[..., Any], /, *args: Any, **options: Any) -> Any:
    """A data set whose files and labels are checked as at the start of a training."""
    dataset = checked(kind, *args, **options)
    dataset.check_labels()
    return dataset


def metres(dataset: Dataset, index: int = 0) -> list[list[float]]:
    found = dataset[index]["targets"]["depth"]
    assert found.dtype == torch.float32
    return [[round(value, 5) for value in row] for row in found.tolist()]


def semantic(dataset: Dataset, index: int = 0) -> list[list[int]]:
    found: torch.Tensor = dataset[index]["targets"]["semantic"]
    assert found.dtype == torch.uint8
    return found.tolist()


@pytest.fixture(autouse=True)
def forgotten_warnings():
    warn_once.cache_clear()


@pytest.fixture
def write(tmp_path):
    """`write(path, size=(width, height))` writes an image and nothing else."""

    def write(path: str, size: tuple[int, int] = (4, 3)) -> Path:
        return save_image(tmp_path / path, Image.new("RGB", size, (1, 2, 3)))

    return write


@pytest.fixture
def write_image(tmp_path, write):
    """`write_image(path, size=(width, height))` writes an image. A split train is not divided."""

    def write_image(path: str, size: tuple[int, int] = (4, 3)) -> Path:
        (tmp_path / path.replace("train", "val")).parent.mkdir(parents=True, exist_ok=True)
        return write(path, size)

    return write_image


@pytest.fixture
def depth(tmp_path):
    """`depth(path, values)` writes an array as PNG or NPY, according to its suffix."""

    def depth(path: str, values: Any) -> Path:
        file = tmp_path / path
        if file.suffix != ".npy":
            return save_image(file, values)
        file.parent.mkdir(parents=True, exist_ok=True)
        np.save(file, values)
        return file

    return depth


@pytest.fixture
def depth_pair(write_image, depth):
    """`depth_pair(values, suffix)` writes one image and its depth map in images/train and labels/train."""

    def depth_pair(values: Any, suffix: str = ".png") -> Path:
        height, width = np.asarray(values).shape[:2]
        write_image("images/train/a.jpg", (width, height))
        return depth(f"labels/train/a{suffix}", values)

    return depth_pair


@pytest.fixture
def label(tmp_path, depth):
    """`label(path, values)` writes a grey (H, W) or RGB (H, W, 3) label. A split train is not divided."""

    def label(path: str, values: np.ndarray) -> Path:
        (tmp_path / path.replace("train", "val")).parent.mkdir(parents=True, exist_ok=True)
        return depth(path, values)

    return label


@pytest.fixture
def jpeg_pairs(tmp_path):
    """Label maps. JPEGs may be called .jfif and .jpe, also in capitals."""
    labels = np.tile(np.array([0, 1], np.uint8), (6, 4))
    for split in ("train", "val"):
        for index, name in enumerate(("a.jpg", "b.JFIF", "c.jpe")):
            save_image(tmp_path / "images" / split / name, noise(index, 6, 8), format="JPEG")
            save_image(tmp_path / "labels" / split / f"{name[0]}.png", labels)
    return tmp_path


@pytest.fixture
def pairs(write_image, label):
    """Two pairs in images/train and labels/train."""

    def pairs(values: np.ndarray = LABEL) -> None:
        for name in ("b", "a"):
            write_image(f"images/train/{name}.jpg")
            label(f"labels/train/{name}.png", values)

    return pairs


def coco_document(**changes: Any) -> dict[str, Any]:
    """Three images, 40 wide and 30 high, with three boxes of two classes."""
    categories = [{"id": 90, "name": "toothbrush"}, {"id": 7, "name": "train"}, {"id": 1000, "name": "unused"}]
    images = [{"id": 5 * k, "file_name": f"{k}.jpg", "height": 30, "width": 40} for k in range(3)]
    annotations = [
        {"id": 11, "image_id": 5, "category_id": 90, "bbox": [1, 2, 10, 20], "area": 150.5, "iscrowd": 0},
        {"id": 12, "image_id": 0, "category_id": 7, "bbox": [0.5, 0.25, 30, 20.5]},
        {"id": 13, "image_id": 5, "category_id": 7, "bbox": [30, 20, 50, 50], "area": 100, "iscrowd": 1},
    ]
    return {"images": images, "annotations": annotations, "categories": categories} | changes


@pytest.fixture
def write_coco(tmp_path):
    """`write_coco(document)` writes the JSON and images under a root, and returns the root."""

    def write_coco(content: Any = None, file: str = "train.json", folder: str = "train", root: str = "set") -> Path:
        content = coco_document() if content is None else content
        base = tmp_path / root
        write_text(base / file, content if isinstance(content, str) else json.dumps(content))
        if "train" in file and not list(base.glob("val*")):
            (base / "val.json").touch()  # so that train is not divided
        (base / folder).mkdir(parents=True, exist_ok=True)
        for image in content["images"] if isinstance(content, dict) else []:
            if isinstance(image, dict) and "file_name" in image:
                color = (200, 10, 15 - image["id"] if image.get("id") in range(16) else 10)
                save_image(base / folder / image["file_name"], Image.new("RGB", (40, 30), color))
        return base

    return write_coco


@pytest.fixture
def cached_scans(own_cache, monkeypatch):
    """Scans of data sets of any size are cached, in this folder."""
    monkeypatch.setattr(coco_annotations, "LARGE_JSON", 0)
    monkeypatch.setattr(measured_images, "LARGE", 0)
    return own_cache
