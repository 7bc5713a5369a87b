"""Data sets in YOLO's and Pascal VOC's format as `data.root`, without a conversion by the user."""

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

import densevit
from densevit import config as configs
from densevit.data.datasets.coco_dataset import Coco, other_format
from densevit.errors import DataError
from densevit_workbench.doctor.source import find_source
from densevit_workbench.interchange.dataset_conversion import convert_dataset
from tests.workbench.doctor.test_diagnose import save
from tests.workbench.interchange.files import write

WIDTH, HEIGHT = 80, 60
SIDES = ("xmin", "ymin", "xmax", "ymax")
BOX = (20, 10, 60, 40)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DENSEVIT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


image = partial(save, size=(WIDTH, HEIGHT))


def yolo(root: Path, splits: tuple[str, ...] = ("train", "val"), count: int = 4) -> Path:
    for number, split in enumerate(splits):
        for k in range(count):
            image(root / "images" / split / f"{k}.png", 100 * number + k)
            polygons = f"{k % 2} 0.25 {1 / 6} 0.75 {1 / 6} 0.75 {2 / 3} 0.25 {2 / 3}\n1 0.25 0.2 0.75 0.2 0.75 0.6\n"
            write(root / "labels" / split / f"{k}.txt", polygons if k else polygons.splitlines()[0])
    entries = "".join(f"{split}: images/{split}\n" for split in splits)
    write(root / "data.yaml", f"path: .\n{entries}names: {{0: zebra, 1: ant}}\n")
    return root


def voc(root: Path, splits: tuple[str, ...] = ("train", "val"), count: int = 4) -> Path:
    corners = "".join(f"<{side}>{value}</{side}>" for side, value in zip(SIDES, BOX, strict=True))
    for number, split in enumerate(splits):
        names = [f"{split}{k}" for k in range(count)]
        write(root / "ImageSets" / "Main" / f"{split}.txt", "\n".join(names))
        for k, name in enumerate(names):
            image(root / "JPEGImages" / f"{name}.png", 100 * number + k)
            box = f"<object><name>{('ant', 'zebra')[k % 2]}</name><bndbox>{corners}</bndbox></object>"
            zero = "<object><name>ant</name><bndbox><xmin>0</xmin><ymin>0</ymin><xmax>9</xmax><ymax>9</ymax></bndbox>"
            write(root / "Annotations" / f"{name}.xml", f"<annotation>{box}{zero}</object></annotation>")
    return root


SETS = {"yolo": yolo, "voc": voc}


def section(root: Path, **options: Any) -> dict[str, Any]:
    return configs.section("data", {"name": "coco", "root": str(root), **options}, "test").options


@pytest.mark.parametrize("format", SETS)
def test_samples_are_those_of_the_converted_data_set(format: str, tmp_path: Path):
    root = SETS[format](tmp_path / "in")
    masks = format == "yolo"
    convert_dataset(format, root, tmp_path / "out")
    for split in ("train", "val"):
        direct, converted = (Coco(split, root=str(where), masks=masks) for where in (root, tmp_path / "out"))
        assert direct.classes == converted.classes and len(direct) == len(converted) == 4
        order = [converted.image_name(k) for k in range(4)]
        for k in range(4):
            one, other = direct[k], converted[order.index(Path(str(direct.image_name(k))).name)]
            assert torch.equal(one["image"], other["image"])
            for key in ("boxes", "labels", "area", "iscrowd"):
                assert torch.equal(one["targets"][key], other["targets"][key])
            if masks:
                assert torch.equal(one["targets"]["masks"].to("cpu"), other["targets"]["masks"].to("cpu"))
            assert one["targets"]["boxes"][0].tolist() == list(BOX)
    assert not list(tmp_path.glob("in/**/*.json"))


@pytest.mark.parametrize("format", SETS)
def test_a_set_without_val_split_is_divided(format: str, tmp_path: Path):
    root = SETS[format](tmp_path / "in", ("train",), 10)
    parts = [Coco(split, root=str(root), val_share=0.3) for split in ("train", "val")]
    assert [len(part) for part in parts] == [7, 3]
    assert "has no val split: of its 10 images, 7 are for training" in parts[1].division
    assert find_source(root).section.name == format == (other_format(root) or [""])[0]
    with pytest.raises(DataError, match="no annotations for the split 'test', only for train"):
        Coco("test", root=str(root))


def test_changes_are_read_and_others_come_from_the_cache(tmp_path: Path, cache: Path, monkeypatch):
    root = yolo(tmp_path / "in")
    boxes = Coco("train", root=str(root)).objects(0)["boxes"]
    (first,) = cache.glob("yolo-in-*/train.json")
    with monkeypatch.context() as patch:
        patch.setattr("densevit_workbench.interchange.foreign_datasets.READERS", {})
        assert torch.equal(Coco("train", root=str(root)).objects(0)["boxes"], boxes)
    write(root / "labels" / "train" / "0.txt", "0 0.5 0.5 0.25 0.5\n")
    assert Coco("train", root=str(root)).objects(0)["boxes"].tolist() == [[30, 15, 50, 45]]
    image(root / "images" / "train" / "new.png", 50)
    write(root / "labels" / "train" / "new.txt", "1 0.5 0.5 0.25 0.5\n")
    assert len(Coco("train", root=str(root))) == 5
    first.unlink()
    (root / "images" / "train" / "new.png").unlink()
    with pytest.warns(UserWarning, match="new.txt"):
        assert len(Coco("train", root=str(root))) == 4


@pytest.mark.parametrize("where", ["off", "file"])
def test_without_a_cache_folder(where: str, tmp_path: Path, monkeypatch, recwarn):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("DENSEVIT_CACHE", "off" if where == "off" else str(tmp_path / "file"))
    assert len(Coco("val", root=str(yolo(tmp_path / "in")))) == 4
    assert any("cannot be cached" in str(one.message) for one in recwarn) == (where == "file")


def test_data_may_be_a_folder_or_data_yaml(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    root = yolo(tmp_path / "in")
    monkeypatch.chdir(tmp_path)
    expected = configs.load("start/detector", ["data=folder", f"data.root={root}"]).data
    for given in (root, root / "data.yaml", "in", "in/data.yaml"):
        found = configs.load("start/detector", [f"data={given}", "data.masks=true"]).data
        assert found.options == {"root": str(given), "masks": True}
        assert (found.batch_size, found.image_size) == (expected.batch_size, expected.image_size)
    root.rename(tmp_path / "bccd")  # also a recipe's name
    assert configs.load("start/detector", ["data=bccd"]).data.options == {"root": "bccd"}
    (tmp_path / "bccd").rename(root)
    (tmp_path / "own.yaml").write_text("base: start/detector\ndata: in/data.yaml\n")
    assert configs.load("own.yaml").data.options["root"] == "in/data.yaml"
    shipped = configs.load("start/detector", ["data=coco"]).data
    (tmp_path / "coco").mkdir()
    assert configs.load("start/detector", ["data=coco"]).data == shipped


def test_labelme_has_to_be_converted(tmp_path: Path):
    write(tmp_path / "labelme" / "a.json", '{"shapes": [], "imagePath": "a.png"}')
    with pytest.raises(DataError, match=f"densevit data convert labelme {tmp_path / 'labelme'} NEW_FOLDER"):
        Coco("train", root=str(tmp_path / "labelme"))


def test_images_elsewhere_need_outside_paths(tmp_path: Path):
    yolo(tmp_path / "in")
    file = tmp_path / "lists" / "set.yaml"
    write(file, f"path: {tmp_path / 'in'}\ntrain: images/train\nval: images/val\nnames: [a, b]\n")
    with pytest.raises(DataError, match="outside"):
        Coco("train", root=str(file))
    made = Coco("train", root=str(file), outside_paths=True)
    assert made[0]["targets"]["boxes"].tolist() == [list(BOX)]


def test_a_damaged_image_is_left_out_with_on_error_skip(tmp_path: Path):
    root = yolo(tmp_path / "in")
    (root / "images" / "train" / "2.png").write_bytes(b"damaged")
    with pytest.raises(DataError, match=r"2\.png"):
        Coco("train", root=str(root))
    with pytest.warns(UserWarning, match=r"2\.png"):
        assert len(Coco("train", root=str(root), on_error="skip")) == 3
    found = {one.title: one for one in densevit.diagnose(root).findings if one.split == "train"}
    assert "2.png" in found["warnings of the data set"].examples[0]
    assert "is in the format 'yolo': 2 classes" in found["data set in another format"].examples[0]
    image(root / "images" / "train" / "2.png", 2)
    assert len(Coco("train", root=str(root))) == 4
