"""Data sets as label tools and old scripts write them: folders, list files, names and paths."""

import json
from pathlib import Path
from typing import Any

import pytest

import densevit
from densevit.errors import DataError
from densevit_workbench.interchange.annotated import Annotated
from densevit_workbench.interchange.dataset_conversion import convert_dataset
from tests.workbench.interchange.files import image
from tests.written_files import write_text, write_texts

LINE = "0 0.5 0.5 0.5 0.5\n"
BOX = [16, 12, 32, 24]  # of LINE, and of XML from 1


def convert(format: str, root: Path, **options: Any) -> Annotated:
    """Converts; all boxes of the result must be BOX."""
    out = root.with_name("out")
    result = convert_dataset(format, root, out, **options)
    boxes = [
        one["bbox"]
        for file in out.glob("annotations/*.json")
        for one in json.loads(file.read_text("utf-8"))["annotations"]
    ]
    assert boxes and all(box == BOX for box in boxes), boxes
    return result


def names(result: Annotated) -> dict[str, list[str]]:
    return {split: [image.path.name for image in images] for split, images in result.splits.items()}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "in"


# ---- YOLO ----

CVAT = "classes = 1\ntrain = data/train.txt\nvalid = data/valid.txt\nnames = data/obj.names\nbackup = backup/"
ROBOFLOW = "train: ../train/images\nval: ../valid/images\ntest: ../test/images\nnames: ['cat']\nroboflow: {v: 1}\n"
YOLO_SETS: dict[str, tuple[dict[str, str], dict[str, str], dict[str, list[str]]]] = {
    # images with their label files, other files, and the images of each split
    "darknet of CVAT, packed from data/": (
        {"obj_train_data/a.jpg": "obj_train_data/a.txt", "obj_valid_data/b.jpg": "obj_valid_data/b.txt"},
        {
            "train.txt": "data/obj_train_data/a.jpg\n",
            "valid.txt": "data/obj_valid_data/b.jpg\n",
            "obj.names": "cat\n",
            "obj.data": CVAT,
        },
        {"train": ["a.jpg"], "val": ["b.jpg"]},
    ),
    "Roboflow": (
        {
            f"{one}/images/{one}_jpg.rf.5f2b.jpg": f"{one}/labels/{one}_jpg.rf.5f2b.txt"
            for one in ("train", "valid", "test")
        }
        | {"../train/images/of_another_set.jpg": ""},  # the path as it is written
        {"README.roboflow.txt": "cats - v1\n", "data.yaml": ROBOFLOW},
        {"train": ["train_jpg.rf.5f2b.jpg"], "val": ["valid_jpg.rf.5f2b.jpg"], "test": ["test_jpg.rf.5f2b.jpg"]},
    ),
    "old scripts, with paths of another machine": (
        {f"obj/{name}.jpg": f"obj/{name}.txt" for name in ("a", "b", "c d")},
        {
            "train.txt": "/content/darknet/data/obj/a.jpg\r\n",
            "val.txt": "D:\\old\\darknet\\data\\obj\\b.jpg\r\nobj\\c%20d.jpg\r\n",
            "classes.txt": "cat\r\n",
        },
        {"train": ["a.jpg"], "val": ["b.jpg", "c d.jpg"]},
    ),
}


@pytest.mark.parametrize("name", YOLO_SETS)
def test_sets_of_yolo_as_tools_write_them(name: str, root: Path, recwarn: pytest.WarningsRecorder):
    images, texts, expected = YOLO_SETS[name]
    for file in images:
        image(root / file)
    write_texts(root, {label: LINE for label in images.values() if label} | texts)
    result = convert("yolo", root)
    assert names(result) == expected and result.classes == ("cat",)
    assert not recwarn.list


def test_missing_files_of_a_list_are_counted_or_errors(root: Path):
    for split in ("train", "val"):
        image(root / "images" / split / "a.jpg")
        write_text(root / "labels" / split / "a.txt", LINE)
    write_text(root / "val.txt", "images/val/a.jpg\nimages/val/a.jpg\n")
    write_text(root / "train.txt", "images/train/a.jpg\nimages/train/gone.jpg\n")
    write_text(root / "data.yaml", "train: train.txt\nval: val.txt\nnames: [cat]\n")
    with pytest.raises(DataError, match=r"images/train/gone\.jpg: there is no such .*--skip-unreadable"):
        convert("yolo", root)
    with pytest.warns(UserWarning, match=r"3 images found: 2 used, 1 left out \(.*images/train/gone.jpg\)"):
        convert("yolo", root, skip_unreadable=True)


# ---- VOC ----


TOOLS = {  # what a tool writes around its boxes, the coordinate of its first pixel, and the format of numbers
    "VOC": ("<folder>VOC2007</folder><source><database>The VOC2007 Database</database></source>", "", 1, "{:d}"),
    "VOC's folder": ("<folder>VOC2012</folder>", "", 1, "{:d}"),
    "labelImg": ("<path>/home/a.jpg</path><source><database>Unknown</database></source>", "", 1, "{:d}"),
    "Datumaro": (
        "<source><database>Unknown</database><annotation>Unknown</annotation><image>Unknown</image></source>",
        "<attributes><attribute><name>is_crowd</name><value>False</value></attribute></attributes>",
        0,
        "{:.1f}",
    ),
    "CVAT": (
        "<source><database>Unknown</database><annotation>Unknown</annotation><image>Unknown</image></source>",
        "<attributes><attribute><name>rotation</name><value>0.0</value></attribute></attributes>",
        0,
        "{:.2f}",
    ),
    "FiftyOne": ("<folder></folder><path>a.jpg</path><source><database></database></source>", "", 0, "{:d}"),
    "globox": ("", "", 0, "{:.1f}"),
}


@pytest.mark.parametrize("tool", TOOLS)
def test_boxes_of_voc_count_as_in_the_tool_that_wrote_them(tool: str, root: Path, tmp_path: Path):
    """The same box as VOC, labelImg, Datumaro 1.13, CVAT, FiftyOne 1.22 and globox 2.9 write it; no box is at 0."""
    head, more, first, number = TOOLS[tool]
    x, y, w, h = BOX
    sides = zip(("xmin", "ymin", "xmax", "ymax"), (x + first, y + first, x + w, y + h), strict=True)
    box = "".join(f"<{side}>{number.format(int(value))}</{side}>" for side, value in sides)
    for split, name in (("train", "a"), ("val", "b")):
        image(root / split / f"{name}.jpg")
        one = f"<object><name>cat</name><bndbox>{box}</bndbox>{more}</object>"
        write_text(root / split / f"{name}.xml", f"<annotation>{head}<filename>{name}.jpg</filename>{one}</annotation>")
    result = convert_dataset("voc", root, tmp_path / "out")
    assert [one.bbox for images in result.splits.values() for image in images for one in image.objects] == [
        tuple(BOX)
    ] * 2
    assert f"count from {first} in 2 files" in result.notes[0]
    chosen = densevit.create_dataset("voc", "train", root=str(root), voc_origin=1 - first)
    left, top, right, bottom = chosen[0]["targets"]["boxes"][0].tolist()
    assert [left, top, right, bottom] == [x + 2 * first - 1, y + 2 * first - 1, x + w, y + h]
    assert f"count from {1 - first} in 2 files as data.voc_origin" in chosen.conversion
