"""Data sets as label tools and old scripts write them: folders, list files, names, paths and encodings."""

import codecs
import json
import unicodedata
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from densevit.data.datasets.paired_files import IMAGES
from densevit.errors import ConfigError, DataError
from densevit_workbench.interchange.annotated import Annotated
from densevit_workbench.interchange.convert import convert_dataset
from densevit_workbench.interchange.faults import Faults
from densevit_workbench.interchange.voc import read_voc

WIDTH, HEIGHT = 64, 48
LINE = "0 0.5 0.5 0.5 0.5\n"
BOX = [16, 12, 32, 24]  # of LINE, and of XML from 1
XML = (
    "<annotation><folder>images</folder><filename>{}</filename><path>C:\\Users\\other\\images\\{}</path>"
    "<size><width>64</width><height>48</height><depth>3</depth></size><object><name>cat</name><bndbox><xmin>{}</xmin>"
    "<ymin>{}</ymin><xmax>48</xmax><ymax>36</ymax></bndbox></object></annotation>"
)


def image(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (WIDTH, HEIGHT), (sum(path.name.encode()) % 200, 10, 10)).save(path, format="JPEG")
    return path


def write(path: Path, text: str, encoding: str = "utf-8") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode(encoding))
    return path


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


def test_darknet_set_of_cvat(root: Path, recwarn: pytest.WarningsRecorder):
    """Its lists and obj.data have paths below `data/`, the folder that it was packed from."""
    for subset, name in (("train", "a"), ("valid", "b")):
        image(root / f"obj_{subset}_data" / f"{name}.jpg")
        write(root / f"obj_{subset}_data" / f"{name}.txt", LINE)
        write(root / f"{subset}.txt", f"data/obj_{subset}_data/{name}.jpg\n")
    write(root / "obj.names", "cat\n")
    lines = ["classes = 1", "train = data/train.txt", "valid = data/valid.txt", "names = data/obj.names"]
    write(root / "obj.data", "\n".join([*lines, "backup = backup/"]))
    result = convert("yolo", root)
    assert names(result) == {"train": ["a.jpg"], "val": ["b.jpg"]} and result.classes == ("cat",)
    assert not recwarn.list


def test_ultralytics_set_of_cvat(root: Path, recwarn: pytest.WarningsRecorder):
    for split, name in (("train", "a"), ("val", "b")):
        image(root / "images" / split / f"{name}.jpg")
        write(root / "labels" / split / f"{name}.txt", LINE)
        write(root / f"{split}.txt", f"data/images/{split}/{name}.jpg\n")
    write(root / "data.yaml", "names:\n  0: cat\npath: .\ntrain: train.txt\nval: val.txt\n")
    assert names(convert("yolo", root)) == {"train": ["a.jpg"], "val": ["b.jpg"]}
    assert not recwarn.list


def test_set_of_roboflow(root: Path, recwarn: pytest.WarningsRecorder):
    for split, name in (("train", "a"), ("valid", "b"), ("test", "c")):
        image(root / split / "images" / f"{name}_jpg.rf.5f2b.jpg")
        write(root / split / "labels" / f"{name}_jpg.rf.5f2b.txt", LINE)
        image(root.parent / split / "images" / "of_another_set.jpg")  # the path as it is written
    write(root / "README.roboflow.txt", "cats - v1\n==============\n")
    text = "train: ../train/images\nval: ../valid/images\ntest: ../test/images\n\nnc: 1\nnames: ['cat']\n"
    write(root / "data.yaml", f"{text}roboflow:\n  version: 1\n")
    result = convert("yolo", root)
    assert {split: len(images) for split, images in names(result).items()} == {"train": 1, "val": 1, "test": 1}
    assert not recwarn.list


def test_set_of_label_studio(root: Path, recwarn: pytest.WarningsRecorder):
    for name in ("2f0b-a", "77c1-b", "90aa-c"):
        image(root / "images" / f"{name}.jpg")
        write(root / "labels" / f"{name}.txt", LINE)
    write(root / "classes.txt", "cat\n")
    write(root / "notes.json", "{}")
    assert sum(map(len, names(convert("yolo", root)).values())) == 3
    assert not recwarn.list


def test_lists_of_old_scripts(root: Path):
    """Absolute paths of another machine, and lists beside the images without a yaml."""
    for name in ("a", "b", "c d"):
        image(root / "obj" / f"{name}.jpg")
        write(root / "obj" / f"{name}.txt", LINE)
    write(root / "train.txt", "/content/darknet/data/obj/a.jpg\r\n")
    write(root / "val.txt", "D:\\old\\darknet\\data\\obj\\b.jpg\r\nobj\\c%20d.jpg\r\n")
    write(root / "classes.txt", "cat\r\n")
    assert names(convert("yolo", root)) == {"train": ["a.jpg"], "val": ["b.jpg", "c d.jpg"]}


def test_images_of_every_suffix(root: Path, recwarn: pytest.WarningsRecorder):
    xmls = root.parent / "voc" / "in"
    for number, suffix in enumerate((*IMAGES, ".JPG")):
        for folder in (root, xmls):
            image(folder / f"{number}{suffix}")
        write(root / f"{number}.txt", LINE)
        write(xmls / f"{number}.xml", xml(f"{number}{suffix}"))
    write(root / "classes.txt", "cat\n")
    for format, folder in {"yolo": root, "voc": xmls}.items():
        assert sum(map(len, names(convert(format, folder)).values())) == len(IMAGES) + 1
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


def test_a_source_that_is_itself_the_folder_images(tmp_path: Path):
    for split in ("train", "val"):
        image(tmp_path / "images" / split / "a.jpg")
        write(tmp_path / "labels" / split / "a.txt", LINE)
    write(tmp_path / "images" / "classes.txt", "cat\n")
    assert names(convert("yolo", tmp_path / "images")) == {"train": ["a.jpg"], "val": ["a.jpg"]}


@pytest.mark.parametrize(
    ("line", "kind"),
    [(f"{LINE.strip()} 0.87", "box"), ("0 0.25 0.25 0.75 0.25 0.75 0.75 0.25 0.75 0.9", "polygon")],
)
def test_confidences_of_predictions_are_dropped_and_counted(root: Path, line: str, kind: str):
    for split in ("train", "val"):
        image(root / "images" / split / "a.jpg")
        write(root / "labels" / split / "a.txt", line)
    write(root / "classes.txt", "cat\n")
    with pytest.warns(UserWarning, match=r"2 confidences found: 0 used, 2 left out \(2 after the coordinates"):
        result = convert("yolo", root)
    assert (result.splits["train"][0].objects[0].segmentation is not None) == (kind == "polygon")


def test_a_line_of_an_odd_number_of_coordinates_is_an_error(root: Path):
    for split in ("train", "val"):
        image(root / "images" / split / "a.jpg")
        write(root / "labels" / split / "a.txt", f"{LINE.strip()} 7")  # a track's number
    write(root / "classes.txt", "cat\n")
    with pytest.raises(DataError, match=r"a\.txt, line 1: 6 numbers; expected a class and x, y, width, height"):
        convert("yolo", root)


def test_names_of_yaml_stay_as_they_are_written(root: Path):
    for split in ("train", "val"):
        image(root / split / "a.jpg")
        write(root / split / "a.txt", LINE)
    text = "train: train\nval: val\ntest: ~\nnames: {names}\n"
    for written in ("[no, yes, 001, 010, null, 12:30]", "{0: no, 1: yes, 2: 001, 3: 010, 4: null, 5: 12:30}"):
        write(root / "data.yaml", text.format(names=written))
        assert convert_dataset("yolo", root, root.with_name(written[:2])).classes == (
            *("no", "yes", "001", "010", "null", "12:30"),
        )


def test_missing_files_of_a_list_are_counted_or_errors(root: Path):
    for split in ("train", "val"):
        image(root / "images" / split / "a.jpg")
        write(root / "labels" / split / "a.txt", LINE)
        write(root / f"{split}.txt", f"images/{split}/a.jpg\nimages/{split}/a.jpg\n")
    write(root / "train.txt", "images/train/a.jpg\nimages/train/gone.jpg\n")
    write(root / "data.yaml", "train: train.txt\nval: val.txt\nnames: [cat]\n")
    with pytest.raises(DataError, match=r"images/train/gone\.jpg: there is no such .*--skip-unreadable"):
        convert("yolo", root)
    reasons = r"1 named, but missing: images/train/gone.jpg; 1 named again by a list: val.txt, line 2"
    with pytest.warns(UserWarning, match=rf"4 images found: 2 used, 2 left out \({reasons}\)"):
        convert("yolo", root, skip_unreadable=True)


# ---- VOC ----


def voc(root: Path, first: int = 1, suffix: str = ".jpg") -> Path:
    for split, name in (("train", "a"), ("val", "b")):
        image(root / "JPEGImages" / f"{name}{suffix}")
        write(root / "Annotations" / f"{name}.xml", xml(f"{name}{suffix}", first))
        write(root / "ImageSets" / "Main" / f"{split}.txt", f"{name}\n")
    return root


def test_an_xmin_of_0_shows_that_all_boxes_count_from_0(root: Path):
    voc(root, first=0)
    with pytest.raises(AssertionError):
        convert("voc", root)  # no box begins at 0
    convert_dataset("voc", root, root.with_name("from_0"), origin=0)
    one = "<object><name>cat</name><bndbox><xmin>0</xmin><ymin>5</ymin><xmax>64</xmax><ymax>48</ymax></bndbox></object>"
    file = root / "Annotations" / "b.xml"
    write(file, file.read_text().replace("</annotation>", f"{one}</annotation>"))
    with pytest.warns(
        UserWarning, match=r"b\.xml, object 2 \(cat\) has the xmin 0, so all coordinates .* from 0"
    ) as said:
        result = convert_dataset("voc", root, root.with_name("seen"))
    assert len(said) == 1
    boxes = [one.bbox for images in result.splits.values() for image in images for one in image.objects]
    assert boxes == [tuple(BOX), tuple(BOX), (0, 5, 64, 43)], "of both splits"
    with pytest.raises(DataError, match=r"xmin 0: coordinates count from 0, not from 1. Fix: --origin 0"):
        convert_dataset("voc", root, root.with_name("other"), origin=1)
    with pytest.raises(ConfigError, match="only coordinates of voc"):
        convert_dataset("yolo", root, root.with_name("other"), origin=1)


def test_dummy_boxes_of_zeros_do_not_show_the_origin(root: Path):
    voc(root)
    one = "<object><name>cat</name><bndbox><xmin>0</xmin><ymin>0</ymin><xmax>0</xmax><ymax>0</ymax></bndbox></object>"
    file = root / "Annotations" / "b.xml"
    write(file, file.read_text().replace("</annotation>", f"{one}</annotation>"))
    with pytest.warns(
        UserWarning, match=r"3 objects found: 2 used, 1 left out \(1 whose box .*: Annotations/b\.xml, obj"
    ):
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


def test_voc_images_named_in_xml_files_of_other_names(root: Path):
    for split in ("train", "val"):
        image(root / "images" / split / f"IMG {split}.JPG")
        write(root / "annotations" / split / "0.xml", xml(f"IMG%20{split}.JPG"))
    assert names(convert("voc", root)) == {"train": ["IMG train.JPG"], "val": ["IMG val.JPG"]}


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "latin-1", "gb2312", "utf-8 as utf-16"])
def test_encodings_of_xml_files(root: Path, encoding: str):
    voc(root)
    name = "猫" if encoding == "gb2312" else "Käfer"
    written, _, declared = encoding.partition(" as ")
    for file in (root / "Annotations").glob("*.xml"):
        declaration = f'<?xml version="1.0" encoding="{declared or written.removesuffix("-sig")}"?>\n'
        write(file, declaration + file.read_text().replace("cat", name), written)
    assert convert("voc", root).classes == (name,)


# ---- labelme ----


def labelme(root: Path, paths: list[str]) -> Path:
    shape = {"label": "cat", "shape_type": "rectangle", "points": [[16, 12], [48, 36]]}
    for k, path in enumerate(paths):
        write(root / "json" / f"{k}.json", json.dumps({"shapes": [shape], "imagePath": path}))
    return root


def test_windows_paths_of_labelme(root: Path):
    labelme(root, ["C:\\Users\\other\\a.jpg", "..\\photos\\b.jpg", "..\\photos\\my%20c.jpg"])
    for name in ("json/a.jpg", "photos/b.jpg", "photos/my c.jpg"):
        image(root / name)
    assert sum(map(len, names(convert("labelme", root)).values())) == 3


# ---- COCO ----


def coco(root: Path, file_names: list[str]) -> Path:
    for split, name in zip(("train", "val"), file_names, strict=True):
        document = {
            "images": [{"id": 1, "file_name": name, "width": WIDTH, "height": HEIGHT}],
            "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": BOX}],
            "categories": [{"id": 1, "name": "cat"}],
        }
        write(root / f"{split}.json", json.dumps(document))
    return root


def test_file_names_of_coco_with_backslashes_and_percents(root: Path):
    coco(root, ["camera 1\\a.jpg", "b%20c.jpg"])
    image(root / "train" / "camera 1" / "a.jpg")
    image(root / "val" / "b c.jpg")
    assert names(convert("coco", root)) == {"train": ["a.jpg"], "val": ["b c.jpg"]}


# ---- byte-order marks and accents ----


def test_byte_order_marks_of_every_text_file(tmp_path: Path):
    yolo = tmp_path / "yolo" / "in"
    for split in ("train", "val"):
        image(yolo / "images" / split / "a.jpg")
        write(yolo / "labels" / split / "a.txt", LINE)
        write(yolo / f"{split}.txt", f"images/{split}/a.jpg\n")
    write(yolo / "data.yaml", "train: train.txt\nval: val.txt\n")
    write(yolo / "classes.txt", "cat\n")
    labelme(tmp_path / "labelme" / "in", ["a.jpg", "b.jpg"])
    for name in "ab":
        image(tmp_path / "labelme" / "in" / "json" / f"{name}.jpg")
    coco_set = coco(tmp_path / "coco" / "in", ["a.jpg", "a.jpg"])
    for split in ("train", "val"):
        image(coco_set / split / "a.jpg")
    sets = {"yolo": yolo, "voc": voc(tmp_path / "voc" / "in"), "labelme": tmp_path / "labelme" / "in", "coco": coco_set}
    for format, root in sets.items():
        for file in [path for path in root.rglob("*.*") if path.suffix in (".txt", ".yaml", ".xml", ".json")]:
            file.write_bytes(codecs.BOM_UTF8 + file.read_bytes())
        assert convert(format, root).classes == ("cat",)


@pytest.mark.parametrize("forms", [("NFC", "NFD"), ("NFD", "NFC")])
def test_accents_in_any_form(tmp_path: Path, forms: tuple[str, str]):
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
    json_set = labelme(tmp_path / "labelme" / "in", [f"../photos/{other}.jpg", f"../photos/{other}2.jpg"])
    for name in (stem, f"{stem}2"):
        image(json_set / "photos" / f"{name}.jpg")
    coco_set = coco(tmp_path / "coco" / "in", [f"{other}.jpg", f"{other}.jpg"])
    for split in ("train", "val"):
        image(coco_set / split / f"{stem}.jpg")
    for format, root in {"yolo": yolo, "voc": xmls, "labelme": json_set, "coco": coco_set}.items():
        assert sum(map(len, names(convert(format, root)).values())) == 2
