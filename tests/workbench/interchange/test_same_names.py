"""Images of one name in several folders: through every converter, each keeps its pixels, boxes and split.

The image of folder k has the red value 80 k and a box at x = 10 k + 4.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import pytest

import densevit
from densevit_workbench.interchange.dataset_conversion import convert_dataset
from tests.workbench.interchange.files import image
from tests.written_files import write_text

WIDTH, HEIGHT = 64, 48
FOLDERS = ("a", "b", "c")
SPLITS = ("train", "val", "test")


def box(k: int) -> list[int]:
    """x, y, width, height"""
    return [10 * k + 4, 8, 16, 24]


def yolo_line(k: int) -> str:
    x, y, w, h = box(k)
    return f"0 {(x + w / 2) / WIDTH} {(y + h / 2) / HEIGHT} {w / WIDTH} {h / HEIGHT}\n"


def xml(k: int) -> str:
    x, y, w, h = box(k)
    corners = f"<xmin>{x + 1}</xmin><ymin>{y + 1}</ymin><xmax>{x + w}</xmax><ymax>{y + h}</ymax>"
    named = "<folder>images</folder><filename>0.jpg</filename>"
    return f"<annotation>{named}<object><name>cat</name><bndbox>{corners}</bndbox></object></annotation>"


def labelme(k: int, path: str) -> str:
    x, y, w, h = box(k)
    shape = {"label": "cat", "shape_type": "rectangle", "points": [[x, y], [x + w, y + h]]}
    return json.dumps({"shapes": [shape], "imagePath": path})


def coco(folders: Sequence[tuple[int, str]]) -> str:
    return json.dumps(
        {
            "images": [{"id": k, "file_name": name, "width": WIDTH, "height": HEIGHT} for k, name in folders],
            "annotations": [{"id": k, "image_id": k, "category_id": 1, "bbox": box(k)} for k, _ in folders],
            "categories": [{"id": 1, "name": "cat"}],
        }
    )


class Maker(NamedTuple):
    """Where the image and the label file of a folder are, and the list or json of a split."""

    image: str
    label: str = ""
    lists: str = ""
    line: str = ""


MAKERS = {
    "yolo in folders": Maker("images/{}/0.jpg", "labels/{}/0.txt"),
    "yolo in lists": Maker("images/{}/0.jpg", "labels/{}/0.txt", "{split}.txt", "/home/other/set/images/{}/0.jpg\n"),
    "voc beside": Maker("{}/0.jpg", "{}/0.xml"),
    "voc in lists": Maker("JPEGImages/{}/0.jpg", "Annotations/{}/0.xml", "ImageSets/Main/{split}.txt", "{}/0\n"),
    "labelme in folders": Maker("photos/{}/0.jpg", "labels/{}/0.json", line="..\\..\\photos\\{}\\0.jpg"),
    "coco in one json": Maker("images/{}/0.jpg"),
    "coco in splits": Maker("{split}/{}/0.jpg", lists="{split}.json", line="{}/0.jpg"),
}


def make(name: str, root: Path, folders: Sequence[str]) -> None:
    """Writes a set of one image in each folder; the lists have the splits in their order."""
    format, maker = name.partition(" ")[0], MAKERS[name]
    for k, (folder, split) in enumerate(zip(folders, SPLITS, strict=False)):
        image(root / maker.image.format(folder, split=split), 80 * k)
        line = maker.line.format(folder)
        if maker.label:
            texts = {"yolo": yolo_line(k), "voc": xml(k), "labelme": labelme(k, line)}
            write_text(root / maker.label.format(folder), texts[format])
        if maker.lists:
            write_text(root / maker.lists.format(folder, split=split), coco([(k, line)]) if format == "coco" else line)
    if format == "yolo":
        write_text(root / "classes.txt", "cat\n")
        if maker.lists:
            write_text(root / "data.yaml", "train: train.txt\nval: val.txt\ntest: test.txt\nnames: [cat]\n")
    if name == "coco in one json":
        write_text(root / "result.json", coco([(k, f"{folder}/0.jpg") for k, folder in enumerate(folders)]))


def contents(root: Path) -> dict[int, tuple[str, list[float]]]:
    """The split and the box of each image, as the data set `coco` reads them; its key is from its pixels."""
    found = {}
    for file in [*root.glob("*.json"), *root.glob("annotations/*.json")]:
        split = file.stem.removeprefix("instances_")
        annotations = dict.fromkeys((split, "val"), str(file.relative_to(root)))
        dataset = densevit.create_dataset("coco", split, root=str(root), annotations=annotations)
        for index in range(len(dataset)):
            sample = dataset[index]
            k = round(float(sample["image"][0].float().mean()) / 80)
            assert k not in found, "each image once"
            found[k] = (split, sample["targets"]["boxes"].flatten().tolist())
    return found


@pytest.mark.parametrize(
    ("name", "folders"), [*((name, SPLITS) for name in MAKERS), ("yolo in folders", FOLDERS), ("voc in lists", FOLDERS)]
)
def test_images_of_one_name_keep_their_pixels_boxes_and_splits(tmp_path, name, folders, recwarn):
    root, out = tmp_path / "in", tmp_path / "out"
    make(name, root, folders)
    has_splits = (folders is SPLITS and name != "coco in one json") or bool(MAKERS[name].lists)
    result = convert_dataset(name.partition(" ")[0], root, out, (None if has_splits else {"train": 1.0}))
    found = contents(out)
    assert found.keys() == {0, 1, 2}
    for k, (split, corners) in found.items():
        x, y, w, h = box(k)
        assert split == (SPLITS[k] if has_splits else "train")
        assert corners == pytest.approx([x, y, x + w, y + h], abs=1e-3)
    images, _, objects = result.inventories
    assert (images.total, images.used, objects.total, objects.used) == (3, 3, 3, 3)
    assert not recwarn.list, "a correct set has no warning"
