"""Paths of conversions: out of the source, below the result, not UTF-8, and of two conversions at once."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

import densevit
from densevit.errors import DataError, WeightsError
from densevit_workbench.interchange.dataset_conversion import convert_dataset
from tests.workbench.interchange.files import write
from tests.workbench.interchange.test_converting import annotations, coco, image, labelme, yolo


def outside_yolo(root: Path, secret: Path) -> Path:
    yolo(root)
    write(root / "list.txt", f"./images/train/a.png\n{secret}\n")
    write(root / "data.yaml", "train: list.txt\nval: images/val\nnames: {0: cat, 1: dog}\n")
    return root


def outside_labelme(root: Path, secret: Path) -> Path:
    shape = {"label": "cat", "points": [[0, 0], [9, 9]], "shape_type": "rectangle"}
    for split in ("train", "val"):
        name = image(root / split / "images" / "a.png").name
        labelme(root / split / "json", "a", [shape], imagePath=f"..\\images\\{name}")
    labelme(root / "train", "secret", [shape], imagePath=str(secret))
    return root


def outside_coco(root: Path, secret: Path) -> Path:
    coco(root, 8)
    document = json.loads((root / "train.json").read_text())
    document["images"][0]["file_name"] = f"../../{secret.parent.name}/{secret.name}"
    write(root / "train.json", json.dumps(document))
    return root


@pytest.mark.filterwarnings("ignore:.* no text file")
@pytest.mark.parametrize("make", [outside_yolo, outside_labelme, outside_coco])
def test_images_outside_of_the_source_are_converted_only_if_allowed(tmp_path: Path, make: Any):
    secret = image(tmp_path / "private" / "secret.png")
    source, out = make(tmp_path / "in", secret), tmp_path / "out"
    format = make.__name__.split("_")[1]
    with pytest.raises(DataError, match=r"secret|private") as caught:
        convert_dataset(format, source, out)
    assert f"outside of {source}" in str(caught.value) and "--outside-paths" in str(caught.value)
    assert not out.exists() and not out.with_name("out.partial").exists()
    before = {*tmp_path.rglob("*")}
    convert_dataset(format, source, out, outside_paths=True)
    assert "secret.png" in [path.name for path in out.rglob("*.png")]
    assert all(path.is_relative_to(out) for path in {*tmp_path.rglob("*")} - before)


def test_file_names_that_are_no_utf8_are_written_as_escapes(tmp_path: Path):
    yolo(tmp_path / "in")
    folder = os.fsencode(tmp_path / "in" / "images" / "val")
    os.rename(folder + b"/c.png", folder + b"/\xff.png")
    (tmp_path / "in" / "labels" / "val" / "c.txt").rename(tmp_path / "in" / "labels" / "val" / os.fsdecode(b"\xff.txt"))
    with pytest.warns(UserWarning, match="no text file"):
        convert_dataset("yolo", tmp_path / "in", tmp_path / "out")
    assert annotations(tmp_path / "out" / "val.json", "\\udcff.png")[0]["class"] == "cat"
    assert len(densevit.create_dataset("coco", "val", root=str(tmp_path / "out"))) == 1


def test_the_first_of_two_conversions_completes(tmp_path: Path):
    root, out, begun = yolo(tmp_path / "set"), tmp_path / "out", []

    def meanwhile(items: Any, title: str, total: int) -> Any:
        if not begun:
            begun.append(out)
            convert_dataset("yolo", root, out)
        return items

    with pytest.raises(WeightsError, match=r"out is not empty. Name another path"):
        convert_dataset("yolo", root, out, track=meanwhile)
    assert len(annotations(out / "train.json", "a.png")) == 2 and (out / "val" / "c.png").is_file()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "set"]
