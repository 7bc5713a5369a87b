"""A split that a data set does not have: an error that lists those that there are, in every data set and layout."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from PIL import Image

from densevit import registry
from densevit.data.build import create_dataset
from densevit.data.datasets.splits import split_names
from densevit.errors import DataError

BOTH = ("train", "val")
SIDES = ("xmin", "ymin", "xmax", "ymax")


class Layout(NamedTuple):
    """write: writes the files below a folder and returns the options. splits: those that there are."""

    write: Callable[[Path], dict[str, Any]]
    splits: tuple[str, ...] = BOTH


def image(root: Path, *names: str) -> None:
    """Images that differ."""
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng([*name.encode()]).integers(0, 256, (16, 16, 3), np.uint8)
        Image.fromarray(pixels).save(root / name)


def maps(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.tile(np.array([0, 1], np.uint8), (16, 8))).save(root / name)


def depths(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        np.save(root / name, np.full((16, 16), 2, np.float32))


def coco(root: Path, name: str, images: list[str]) -> None:
    rows = [{"id": i, "file_name": file, "width": 16, "height": 16} for i, file in enumerate(images)]
    objects = [{"id": i, "image_id": i, "category_id": 1, "bbox": [1, 1, 5, 5]} for i in range(len(images))]
    content = {"images": rows, "annotations": objects, "categories": [{"id": 1, "name": "a"}]}
    (root / name).write_text(json.dumps(content))


def panoptic(root: Path, split: str) -> None:
    segments = root / "annotations" / f"panoptic_{split}2017"
    segments.mkdir(parents=True)
    image(root, f"{split}2017/a.jpg")
    Image.fromarray(np.broadcast_to(np.array([7, 0, 0], np.uint8), (16, 16, 3)).copy()).save(segments / "a.png")
    info = {"id": 7, "category_id": 1, "iscrowd": 0, "area": 256, "bbox": [0, 0, 16, 16]}
    content = {
        "images": [{"id": 1, "file_name": "a.jpg", "width": 16, "height": 16}],
        "annotations": [{"image_id": 1, "file_name": "a.png", "segments_info": [info]}],
        "categories": [{"id": 1, "name": "a", "isthing": 1}],
    }
    segments.with_suffix(".json").write_text(json.dumps(content))


def class_folders(*folders: str) -> Callable[[Path], dict[str, Any]]:
    def write(root: Path) -> dict[str, Any]:
        image(root, *(f"{folder}/{name}/{i}.png" for folder in folders for name in "ab" for i in range(5)))
        return {"root": str(root)}

    return write


def label_maps(*folders: str, **options: Any) -> Callable[[Path], dict[str, Any]]:
    def write(root: Path) -> dict[str, Any]:
        image(root, *(f"images/{folder}/{i}.png" for folder in folders for i in range(5)))
        maps(root, *(f"labels/{folder}/{i}.png" for folder in folders for i in range(5)))
        return {"root": str(root), "classes": ["a", "b"], **options}

    return write


def depth_maps(*folders: str, **options: Any) -> Callable[[Path], dict[str, Any]]:
    def write(root: Path) -> dict[str, Any]:
        image(root, *(f"images/{folder}/{i}.png" for folder in folders for i in range(2)))
        depths(root, *(f"labels/{folder}/{i}.npy" for folder in folders for i in range(2)))
        return {"root": str(root), **options}

    return write


def images(*folders: str) -> Callable[[Path], dict[str, Any]]:
    def write(root: Path) -> dict[str, Any]:
        image(root, *(f"{folder}/{i}.png" for folder in folders for i in range(20)))
        return {"root": str(root)}

    return write


def coco_files(*splits: str) -> Callable[[Path], dict[str, Any]]:
    def write(root: Path) -> dict[str, Any]:
        for split in splits:
            image(root, *(f"{split}/{i}.png" for i in range(5)))
            coco(root, f"{split}.json", [f"{i}.png" for i in range(5)])
        return {"root": str(root)}

    return write


def yolo(*splits: str) -> Callable[[Path], dict[str, Any]]:
    def write(root: Path) -> dict[str, Any]:
        for file in (f"{split}/{i}" for split in splits for i in range(5)):
            image(root, f"images/{file}.png")
            (root / "labels" / file).parent.mkdir(parents=True, exist_ok=True)
            (root / "labels" / f"{file}.txt").write_text("0 0.5 0.5 0.5 0.5")
        (root / "classes.txt").write_text("a")
        return {"root": str(root)}

    return write


def voc(*splits: str) -> Callable[[Path], dict[str, Any]]:
    def write(root: Path) -> dict[str, Any]:
        box = "".join(f"<{side}>{value}</{side}>" for side, value in zip(SIDES, (2, 2, 9, 9), strict=True))
        for file in (f"{split}/{i}" for split in splits for i in range(5)):
            image(root, f"{file}.png")
            text = f"<annotation><object><name>a</name><bndbox>{box}</bndbox></object></annotation>"
            (root / f"{file}.xml").write_text(text)
        return {"root": str(root)}

    return write


def panoptic_files(root: Path) -> dict[str, Any]:
    for split in BOTH:
        panoptic(root, split)
    return {"root": str(root)}


def shards(root: Path) -> dict[str, Any]:
    from densevit_workbench.interchange.shard_writer import write_shards

    root.mkdir()
    for split in BOTH:
        list(write_shards(create_dataset("scenes", split, train_length=1, val_length=1, image_size=32), root, split, 9))
    return {"root": str(root)}


LAYOUTS: dict[str, dict[str, Layout]] = {
    "image_folder": {
        "folders": Layout(class_folders("train", "valid", "test"), (*BOTH, "test")),
        "no val": Layout(class_folders("train")),
        "flat": Layout(class_folders(".")),
    },
    "label_maps": {
        "folders": Layout(label_maps("train", "validation", "test"), (*BOTH, "test")),
        "no val": Layout(label_maps("train")),
        "flat": Layout(label_maps(".")),
        "named": Layout(label_maps("a", images="images/a", labels="labels/a")),
    },
    "depth": {
        "folders": Layout(depth_maps("training", "val", "test"), (*BOTH, "test")),
        "by split": Layout(
            depth_maps("a", "b", **{k: {"train": f"{k}/a", "val": f"{k}/b"} for k in ("images", "labels")})
        ),
        "names": Layout(depth_maps("a", "b", splits={"train": "a", "val": "b"})),
    },
    "images": {
        "folders": Layout(images("train", "val", "more"), (*BOTH, "more")),
        "flat": Layout(images(".")),
    },
    "coco": {
        "files": Layout(coco_files("train", "val", "test"), (*BOTH, "test")),
        "no val": Layout(coco_files("train")),
        "single": Layout(coco_files("result")),
    },
    "yolo": {"folders": Layout(yolo("train", "val", "test"), (*BOTH, "test")), "no val": Layout(yolo("train"))},
    "voc": {"folders": Layout(voc("train", "val", "test"), (*BOTH, "test")), "no val": Layout(voc("train"))},
    "labelme": {},  # any split is an error with the command that converts the data set
    "coco_panoptic": {"official": Layout(panoptic_files)},
    "shards": {"shards": Layout(shards)},
    "scenes": {"scenes": Layout(lambda root: {"train_length": 1, "val_length": 1}, (*BOTH, "test"))},
    "mix": {"flat": Layout(lambda root: {"sets": {"a": {"name": "image_folder", **class_folders(".")(root)}}})},
}


def test_every_data_set_has_a_case() -> None:
    assert LAYOUTS.keys() == registry.find("datasets").keys()


def cases() -> Iterator[Any]:
    for name, layouts in LAYOUTS.items():
        for layout, case in layouts.items():
            yield pytest.param(name, case, id=f"{name}-{layout}")


@pytest.mark.parametrize(("name", "layout"), [*cases()])
def test_a_split_that_does_not_exist_is_an_error_that_lists_the_others(
    name: str, layout: Layout, tmp_path: Path
) -> None:
    options = layout.write(tmp_path / "data")
    found = {split: create_dataset(name, split, **options) for split in layout.splits}
    assert all(len(dataset) for dataset in found.values())
    for split in {"test", "nonsense"} - {*layout.splits}:
        with pytest.raises(DataError, match=f"{split!r}") as error:
            create_dataset(name, split, **options)
        listed = str(error.value).partition("only ")[2]
        assert all(known in listed for known in layout.splits), error.value


@pytest.mark.parametrize(
    ("patterns", "files", "expected"),
    [
        (["images/{split}", "labels/{split}"], ["images/training/a", "images/test/a", "labels/training/b"], ["train"]),
        (["{split}.json"], ["val.json", "train.json", "b.json", "x.txt"], ["train", "val", "b"]),
        (["{split}/*/im.png"], ["b/1/im.png", "a/1/other.png"], ["b"]),
        (["images"], ["images/a"], ["train", "val"]),
        (["images/{split}"], ["images/readme", "images/val/a"], ["val"]),
    ],
)
def test_names_of_splits_on_disk(patterns: list[str], files: list[str], expected: list[str], tmp_path: Path) -> None:
    for file in files:
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).touch()
    assert split_names(tmp_path, patterns) == expected
    for folder in ("given/one", "given/two", "given/other"):
        (tmp_path / folder).mkdir(parents=True)
    given = split_names(tmp_path / "given", ["{split}"], {"train": "one", "val": "two"})
    assert given == ["train", "val", "other"]
