"""A split that a data set does not have: an error that lists those that there are. Plugins test theirs."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from PIL import Image

from densevit.data.dataset_builder import create_dataset
from densevit.errors import DataError
from tests.data.datasets.conftest import coco_document

BOTH = ("train", "val")


class Layout(NamedTuple):
    """files: paths below the root, with {} for the number of a file, and their pixels. splits: those that exist."""

    name: str
    files: dict[str, Any]
    options: dict[str, Any] = {}  # noqa: RUF012
    splits: tuple[str, ...] = BOTH


def noise(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (16, 16, 3), np.uint8)


def label(_: int) -> np.ndarray:
    return np.tile(np.array([0, 1], np.uint8), (16, 8))


def metres(_: int) -> np.ndarray:
    return np.full((16, 16), 2000, np.uint16)


def pairs(*folders: str, values: Callable[[int], np.ndarray] = label) -> dict[str, Any]:
    kinds = {"images": noise, "labels": values}
    return {f"{kind}/{folder}/{{}}.png": of for kind, of in kinds.items() for folder in folders}


CLASSES, MILLIMETRES = {"classes": ["a", "b"]}, {"scale": 0.001}
LAYOUTS = {
    "class folders": Layout(
        "image_folder", {f"{split}/{name}/{{}}.png": noise for split in ("train", "valid", "test") for name in "ab"},
        {}, (*BOTH, "test"),
    ),
    "class folders, no val": Layout("image_folder", {"train/a/{}.png": noise, "train/b/{}.png": noise}),
    "class folders, flat": Layout("image_folder", {"a/{}.png": noise, "b/{}.png": noise}),
    "label maps": Layout("label_maps", pairs("train", "validation", "test"), CLASSES, (*BOTH, "test")),
    "label maps, no val": Layout("label_maps", pairs("train"), CLASSES),
    "label maps, flat": Layout("label_maps", pairs("."), CLASSES),
    "label maps, named": Layout("label_maps", pairs("a"), {**CLASSES, "images": "images/a", "labels": "labels/a"}),
    "depth": Layout("depth", pairs("training", "val", "test", values=metres), MILLIMETRES, (*BOTH, "test")),
    "depth by split": Layout(
        "depth", pairs("a", "b", values=metres),
        {**MILLIMETRES, **{key: {"train": f"{key}/a", "val": f"{key}/b"} for key in ("images", "labels")}},
    ),
    "depth, names": Layout(
        "depth", pairs("a", "b", values=metres), {**MILLIMETRES, "splits": {"train": "a", "val": "b"}},
    ),
    "images": Layout("images", {f"{split}/{{}}.png": noise for split in (*BOTH, "more")}, splits=(*BOTH, "more")),
    "images, flat": Layout("images", {"{}.png": noise}),
    "coco": Layout("coco", {f"{split}/{{}}.png": noise for split in (*BOTH, "test")}, splits=(*BOTH, "test")),
    "coco, no val": Layout("coco", {"train/{}.png": noise}),
    "coco, a single json": Layout("coco", {"result/{}.png": noise}),
}  # fmt: skip


def write(layout: Layout, root: Path) -> None:
    """Ten files of each kind, and the jsons of COCO."""
    for number, (pattern, values) in enumerate(layout.files.items()):
        for i in range(10):
            path = root / pattern.format(i)
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(values(20 * number + i)).save(path)
    if layout.name == "coco":
        images = [{"id": i, "file_name": f"{i}.png", "width": 16, "height": 16} for i in range(10)]
        objects = [{"id": i, "image_id": i, "category_id": 7, "bbox": [1, 1, 5, 5]} for i in range(10)]
        for pattern in layout.files:
            content = coco_document(images=images, annotations=objects)
            (root / pattern.replace("/{}.png", ".json")).write_text(json.dumps(content))


@pytest.mark.parametrize("case", LAYOUTS)
def test_a_split_that_does_not_exist_is_an_error_that_names_it(case, tmp_path):
    layout = LAYOUTS[case]
    write(layout, tmp_path)
    options = {"root": str(tmp_path), **layout.options} | ({"val_share": 0.5} if case == "images, flat" else {})
    assert all(len(create_dataset(layout.name, split, **options)) for split in layout.splits)
    for split in {"test", "nonsense"} - {*layout.splits}:
        with pytest.raises(DataError, match=rf"\b{split}\b"):
            create_dataset(layout.name, split, **options)
