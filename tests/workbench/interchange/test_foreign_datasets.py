"""Data sets in YOLO's and Pascal VOC's format as `data.root`, without a conversion by the user."""

from functools import partial
from pathlib import Path

import pytest
import torch

from densevit import config as configs
from densevit.data.datasets.coco_dataset import Coco
from densevit.data.datasets.coco_layouts import other_format
from densevit.errors import DataError
from densevit_workbench.doctor.source import find_source
from densevit_workbench.interchange.dataset_conversion import convert_dataset
from tests.workbench.doctor.test_examination import save
from tests.written_files import write_text

WIDTH, HEIGHT = 80, 60
BOX = (20, 10, 60, 40)


pytestmark = pytest.mark.usefixtures("own_cache")


image = partial(save, size=(WIDTH, HEIGHT))


def yolo(root: Path, splits: tuple[str, ...] = ("train", "val"), count: int = 4) -> Path:
    for number, split in enumerate(splits):
        for k in range(count):
            image(root / "images" / split / f"{k}.png", 100 * number + k)
            polygons = f"{k % 2} 0.25 {1 / 6} 0.75 {1 / 6} 0.75 {2 / 3} 0.25 {2 / 3}\n1 0.25 0.2 0.75 0.2 0.75 0.6\n"
            write_text(root / "labels" / split / f"{k}.txt", polygons if k else polygons.splitlines()[0])
    entries = "".join(f"{split}: images/{split}\n" for split in splits)
    write_text(root / "data.yaml", f"path: .\n{entries}names: {{0: zebra, 1: ant}}\n")
    return root


def voc(root: Path, splits: tuple[str, ...] = ("train", "val"), count: int = 4) -> Path:
    corners = "".join(
        f"<{side}>{value}</{side}>" for side, value in zip(("xmin", "ymin", "xmax", "ymax"), BOX, strict=True)
    )
    for number, split in enumerate(splits):
        names = [f"{split}{k}" for k in range(count)]
        write_text(root / "ImageSets" / "Main" / f"{split}.txt", "\n".join(names))
        for k, name in enumerate(names):
            image(root / "JPEGImages" / f"{name}.png", 100 * number + k)
            box = f"<object><name>{('ant', 'zebra')[k % 2]}</name><bndbox>{corners}</bndbox></object>"
            zero = "<object><name>ant</name><bndbox><xmin>0</xmin><ymin>0</ymin><xmax>9</xmax><ymax>9</ymax></bndbox>"
            write_text(root / "Annotations" / f"{name}.xml", f"<annotation>{box}{zero}</object></annotation>")
    return root


SETS = {"yolo": yolo, "voc": voc}


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


def test_boxes_among_polygons_are_masks_or_left_out_as_an_option_says(tmp_path: Path):
    root = yolo(tmp_path / "in")
    write_text(root / "labels" / "train" / "2.txt", "0 0.25 0.2 0.75 0.2 0.75 0.6\n1 0.5 0.5 0.5 0.4\n")
    text = (
        r"^1 of 7 objects have a box and no polygon or mask, first: labels/train/2\.txt, line 2\. Fix: "
        r"data\.boxes_as_masks=true takes .*data\.boxes_as_masks=false leaves .*without data\.masks boxes suffice\.$"
    )
    with pytest.raises(DataError, match=text):
        Coco("train", root=str(root), masks=True)
    as_masks, as_boxes = (Coco("train", root=str(root), masks=True, boxes_as_masks=choice) for choice in (True, False))
    index = next(i for i in range(4) if as_masks.image_name(i).endswith("2.png"))
    [_, rectangle], [box] = as_masks[index]["targets"]["masks"].to("cpu"), as_boxes[index]["targets"]["boxes"]
    height, width = rectangle.shape
    expected = torch.zeros(height, width, dtype=torch.bool)
    expected[round(0.3 * height) : round(0.7 * height), width // 4 : 3 * width // 4] = True
    assert torch.equal(rectangle.bool(), expected) and len(box) == 4
    assert len(Coco("train", root=str(root))[index]["targets"]["boxes"]) == 2


@pytest.mark.parametrize("format", SETS)
def test_a_set_without_val_split_is_divided(format: str, tmp_path: Path):
    root = SETS[format](tmp_path / "in", ("train",), 10)
    parts = [Coco(split, root=str(root), val_share=0.3) for split in ("train", "val")]
    assert len(parts[0]) + len(parts[1]) == 10
    assert f"has no val split: of its 10 images, {len(parts[0])} are for training" in parts[1].division
    assert find_source(root).section.name == format == (other_format(root, Coco) or [""])[0]
    with pytest.raises(DataError, match="no annotations for the split 'test', only for train"):
        Coco("test", root=str(root))


def test_changes_are_read_and_others_come_from_the_cache(tmp_path: Path, own_cache: Path):
    root = yolo(tmp_path / "in")
    boxes = Coco("train", root=str(root)).objects(0)["boxes"]
    (first,) = own_cache.glob("yolo-in-*/train.json")
    written = first.stat().st_mtime_ns
    assert torch.equal(Coco("train", root=str(root)).objects(0)["boxes"], boxes)
    assert first.stat().st_mtime_ns == written
    write_text(root / "labels" / "train" / "0.txt", "0 0.5 0.5 0.25 0.5\n")
    assert Coco("train", root=str(root)).objects(0)["boxes"].tolist() == [[30, 15, 50, 45]]
    image(root / "images" / "train" / "new.png", 50)
    write_text(root / "labels" / "train" / "new.txt", "1 0.5 0.5 0.25 0.5\n")
    assert len(Coco("train", root=str(root))) == 5
    first.unlink()
    (root / "images" / "train" / "new.png").unlink()
    with pytest.warns(UserWarning, match="new.txt"):
        assert len(Coco("train", root=str(root))) == 4


def test_data_may_be_a_folder_or_data_yaml(cwd: Path):
    root = yolo(cwd / "in")
    expected = configs.load("start/detector", ["data=folder", f"data.root={root}"]).data
    for given in (root, root / "data.yaml", "in", "in/data.yaml"):
        found = configs.load("start/detector", [f"data={given}", "data.masks=true"]).data
        assert found.options == {"root": str(given), "masks": True}
        assert (found.batch_size, found.image_size) == (expected.batch_size, expected.image_size)
    root.rename(cwd / "bccd")  # also a recipe's name
    assert configs.load("start/detector", ["data=bccd"]).data.options == {"root": "bccd"}
    (cwd / "bccd").rename(root)
    (cwd / "own.yaml").write_text("base: start/detector\ndata: in/data.yaml\n")
    assert configs.load("own.yaml").data.options["root"] == "in/data.yaml"
    shipped = configs.load("start/detector", ["data=coco"]).data
    (cwd / "coco").mkdir()
    assert configs.load("start/detector", ["data=coco"]).data == shipped
