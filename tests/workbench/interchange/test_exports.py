"""Data sets as label tools and old scripts write them: folders, list files, names, paths and encodings."""

import json
import unicodedata
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from densevit.errors import ConfigError, DataError
from densevit_workbench.interchange.annotated import Annotated
from densevit_workbench.interchange.dataset_conversion import convert_dataset
from densevit_workbench.interchange.faults import Faults
from densevit_workbench.interchange.voc import read_voc
from tests.workbench.interchange.files import image, write

WIDTH, HEIGHT = 64, 48
LINE = "0 0.5 0.5 0.5 0.5\n"
BOX = [16, 12, 32, 24]  # of LINE, and of XML from 1
XML = (
    "<annotation><folder>images</folder><filename>{}</filename><path>C:\\Users\\other\\images\\{}</path>"
    "<size><width>64</width><height>48</height><depth>3</depth></size><object><name>cat</name><bndbox><xmin>{}</xmin>"
    "<ymin>{}</ymin><xmax>48</xmax><ymax>36</ymax></bndbox></object></annotation>"
)


def xml(filename: str, first: int = 1) -> str:
    return XML.format(filename, filename, 16 + first, 12 + first)


def convert(format: str, root: Path, **options: Any) -> Annotated:
    """Converts; all boxes of the result must be BOX."""
    out = root.with_name("out")
    result = convert_dataset(format, root, out, **options)
    boxes = [one["bbox"] for file in out.glob("*.json") for one in json.loads(file.read_text("utf-8"))["annotations"]]
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
    for file, label in images.items():
        image(root / file)
        if label:
            write(root / label, LINE)
    for file, text in texts.items():
        write(root / file, text)
    result = convert("yolo", root)
    assert names(result) == expected and result.classes == ("cat",)
    assert not recwarn.list


def test_a_folder_images_above_the_set_means_nothing(tmp_path: Path, recwarn: pytest.WarningsRecorder):
    for number, place in enumerate(("{split}/{name}.txt", "labels/{split}/{name}.txt", "{split}/labels/{name}.txt")):
        root = tmp_path / "images" / str(number) / "in"
        for split, name in (("train", "a"), ("val", "b")):
            image(root / split / f"{name}.jpg")
            write(root / place.format(split=split, name=name), LINE)
        write(root / "data.yaml", "train: train\nval: val\nnames: [cat]\n")
        result = convert("yolo", root)
        assert [len(image.objects) for images in result.splits.values() for image in images] == [1, 1], place
    assert not recwarn.list


@pytest.fixture
def small(root: Path) -> Path:
    """An image of each split with a label file, and the name of the class."""
    for split in ("train", "val"):
        image(root / "images" / split / "a.jpg")
        write(root / "labels" / split / "a.txt", LINE)
    write(root / "classes.txt", "cat\n")
    return root


def test_confidences_of_predictions_are_dropped(small: Path):
    write(small / "labels" / "train" / "a.txt", f"{LINE.strip()} 0.87")
    write(small / "labels" / "val" / "a.txt", "0 0.25 0.25 0.75 0.25 0.75 0.75 0.25 0.75 0.9")
    result = convert("yolo", small)
    found = [result.splits[split][0].objects[0].segmentation is not None for split in ("train", "val")]
    assert found == [False, True], "a box and a polygon"
    write(small / "labels" / "train" / "a.txt", f"{LINE.strip()} 7")  # a track's number
    with pytest.raises(DataError, match=r"a\.txt, line 1: 6 numbers"):
        convert_dataset("yolo", small, small.with_name("other"))


def test_names_of_yaml_stay_as_they_are_written(small: Path):
    text = "train: images/train\nval: images/val\ntest: ~\nnames: {names}\n"
    for written in ("[no, yes, 001, 010, null, 12:30]", "{0: no, 1: yes, 2: 001, 3: 010, 4: null, 5: 12:30}"):
        write(small / "data.yaml", text.format(names=written))
        found = convert_dataset("yolo", small, small.with_name(written[:2])).classes
        assert found == ("no", "yes", "001", "010", "null", "12:30")


def test_missing_files_of_a_list_are_counted_or_errors(small: Path):
    write(small / "val.txt", "images/val/a.jpg\nimages/val/a.jpg\n")
    write(small / "train.txt", "images/train/a.jpg\nimages/train/gone.jpg\n")
    write(small / "data.yaml", "train: train.txt\nval: val.txt\nnames: [cat]\n")
    with pytest.raises(DataError, match=r"images/train/gone\.jpg: there is no such .*--skip-unreadable"):
        convert("yolo", small)
    with pytest.warns(UserWarning, match=r"3 images found: 2 used, 1 left out \(.*images/train/gone.jpg\)"):
        convert("yolo", small, skip_unreadable=True)


# ---- VOC ----


def voc(root: Path, first: int = 1) -> Path:
    for split, name in (("train", "a"), ("val", "b")):
        image(root / "JPEGImages" / f"{name}.jpg")
        write(root / "Annotations" / f"{name}.xml", xml(f"{name}.jpg", first))
        write(root / "ImageSets" / "Main" / f"{split}.txt", f"{name}\n")
    return root


def add_object(file: Path, corners: tuple[int, int, int, int]) -> None:
    sides = zip(("xmin", "ymin", "xmax", "ymax"), corners, strict=True)
    box = "".join(f"<{side}>{value}</{side}>" for side, value in sides)
    one = f"<object><name>cat</name><bndbox>{box}</bndbox></object>"
    write(file, file.read_text().replace("</annotation>", f"{one}</annotation>"))


def test_an_xmin_of_0_shows_that_all_boxes_count_from_0(root: Path):
    voc(root, first=0)
    with pytest.raises(AssertionError):
        convert("voc", root)  # no box begins at 0
    convert_dataset("voc", root, root.with_name("from_0"), origin=0)
    add_object(root / "Annotations" / "b.xml", (0, 5, 64, 48))
    with pytest.warns(UserWarning, match=r"b\.xml, object 2 \(cat\) has the xmin 0") as said:
        result = convert_dataset("voc", root, root.with_name("seen"))
    assert len(said) == 1
    boxes = [one.bbox for images in result.splits.values() for image in images for one in image.objects]
    assert boxes == [tuple(BOX), tuple(BOX), (0, 5, 64, 43)], "of both splits"
    with pytest.raises(DataError, match=r"xmin 0.*Fix: --origin 0"):
        convert_dataset("voc", root, root.with_name("other"), origin=1)
    with pytest.raises(ConfigError, match="only coordinates of voc"):
        convert_dataset("yolo", root, root.with_name("other"), origin=1)


def test_dummy_boxes_of_zeros_do_not_show_the_origin(root: Path):
    add_object(voc(root) / "Annotations" / "b.xml", (0, 0, 0, 0))
    with pytest.warns(UserWarning, match=r"3 objects found: 2 used, 1 left out .*Annotations/b\.xml, obj"):
        convert("voc", root)


def test_lists_of_several_years_and_with_suffixes_and_quotes(root: Path):
    for year, split in (("VOC2007", "train"), ("VOC2012", "val")):
        voc(root / year)
        (root / year / "ImageSets" / "Main" / "val.txt").unlink()
        (root / year / "ImageSets" / "Main" / "train.txt").rename(root / year / "ImageSets" / "Main" / f"{split}.txt")
    write(root / "VOC2007" / "ImageSets" / "Main" / "train.txt", '"a" 1\n')
    write(root / "VOC2012" / "ImageSets" / "Main" / "val.txt", "b.jpg\n")
    with pytest.warns(UserWarning) as said:
        result = convert("voc", root)
    assert names(result) == {"train": ["a.jpg"], "val": ["b.jpg"]}
    unlisted = "2 in no split: VOC2007/Annotations/b.xml, VOC2012/Annotations/a.xml"
    assert any(f"4 xml files found: 2 used, 2 left out ({unlisted})" in str(one.message) for one in said)


def test_a_list_trainval_is_of_train(root: Path):
    lists = voc(root) / "ImageSets" / "Main"
    (lists / "train.txt").rename(lists / "trainval.txt")
    (lists / "val.txt").rename(lists / "test.txt")
    assert names(read_voc(root, Faults())) == {"train": ["a.jpg"], "test": ["b.jpg"]}
    write(lists / "trainval.txt", "a\nb\n")
    (lists / "test.txt").rename(lists / "val.txt")
    assert names(read_voc(root, Faults())) == {"train": ["a.jpg"], "val": ["b.jpg"]}


# ---- labelme ----


def labelme(root: Path, paths: list[str]) -> Path:
    shape = {"label": "cat", "shape_type": "rectangle", "points": [[16, 12], [48, 36]]}
    for k, path in enumerate(paths):
        write(root / "json" / f"{k}.json", json.dumps({"shapes": [shape], "imagePath": path}))
    return root


def coco(root: Path, file_names: list[str]) -> Path:
    for split, name in zip(("train", "val"), file_names, strict=True):
        document = {
            "images": [{"id": 1, "file_name": name, "width": WIDTH, "height": HEIGHT}],
            "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": BOX}],
            "categories": [{"id": 1, "name": "cat"}],
        }
        write(root / f"{split}.json", json.dumps(document))
    return root


# ---- byte-order marks and accents ----


@pytest.mark.parametrize("forms", [("NFC", "NFD"), ("NFD", "NFC")])
def test_accents_in_any_form_percents_and_windows_paths(tmp_path: Path, forms: tuple[str, str]):
    """The name of the image has one form, and the label file and its text the other."""
    stem, other = (unicodedata.normalize(form, "café") for form in forms)
    yolo, xmls = tmp_path / "yolo" / "in", tmp_path / "voc" / "in"
    for split in ("train", "val"):
        image(yolo / split / f"{stem}.jpg")
        write(yolo / split / f"{other}.txt", LINE)
        write(yolo / f"{split}.txt", f"{split}/{other}.jpg\n")
        image(xmls / "images" / split / f"{stem}.jpg")
        write(xmls / "Annotations" / split / f"{other}.xml", xml(f"{other}.jpg"))
    write(yolo / "data.yaml", "train: train.txt\nval: val.txt\nnames: [cat]\n")
    json_set = labelme(tmp_path / "labelme" / "in", [f"..\\photos\\{other}.jpg", f"../photos/my%20{other}.jpg"])
    for name in (stem, f"my {stem}"):
        image(json_set / "photos" / f"{name}.jpg")
    coco_set = coco(tmp_path / "coco" / "in", [f"{other}.jpg", f"{other}.jpg"])
    for split in ("train", "val"):
        image(coco_set / split / f"{stem}.jpg")
    for format, root in {"yolo": yolo, "voc": xmls, "labelme": json_set, "coco": coco_set}.items():
        assert sum(map(len, names(convert(format, root)).values())) == 2


@pytest.mark.parametrize("format", ["voc", "coco"])
def test_boxes_of_rotated_photos_with_their_stored_size(tmp_path: Path, format: str):
    """A box that is outside of the stored image and inside of the upright one is kept."""
    exif, box = Image.Exif(), [10, 50, 20, 10]
    exif[0x0112] = 6
    for name in ("a", "b"):
        file = image(tmp_path / "in" / "images" / f"{name}.jpg")
        Image.open(file).save(file, exif=exif)  # stored 64 x 48, upright 48 x 64
        row = XML.format(f"{name}.jpg", "", 11, 51).replace(">48</xmax><ymax>36<", ">30</xmax><ymax>60<")
        if format == "voc":
            write(tmp_path / "in" / "Annotations" / f"{name}.xml", row)
    if format == "coco":
        images = [{"id": i, "file_name": f"images/{n}.jpg", "width": 64, "height": 48} for i, n in enumerate("ab")]
        objects = [{"id": i, "image_id": i, "category_id": 1, "bbox": box} for i in range(2)]
        document = {"images": images, "annotations": objects, "categories": [{"id": 1, "name": "cat"}]}
        write(tmp_path / "in" / "result.json", json.dumps(document))
    result = convert_dataset(format, tmp_path / "in", tmp_path / "out", {"train": 1})
    assert [list(one.bbox) for image in result.splits["train"] for one in image.objects] == [box] * 2
