"""Hand-made data sets of each format, with values worked out by hand; the result is read by pycocotools and `coco`."""

import base64
import contextlib
import io
import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO

import densevit
from densevit.cli import main
from densevit.errors import DataError
from densevit_workbench.interchange.dataset_conversion import convert_dataset
from tests.workbench.interchange import files
from tests.written_files import encoded, write_text, write_texts

WIDTH, HEIGHT = 80, 40
image = partial(files.image, size=(WIDTH, HEIGHT))


def read(file: Path) -> COCO:
    with contextlib.redirect_stdout(io.StringIO()):
        return COCO(str(file))


def annotations(file: Path, name: str) -> list[dict[str, Any]]:
    """The annotations of an image, by pycocotools, with the class's name."""
    api = read(file)
    [image_id] = [one["id"] for one in api.dataset["images"] if one["file_name"] == name]
    classes = {one["id"]: one["name"] for one in api.loadCats(api.getCatIds())}
    return [one | {"class": classes[one["category_id"]]} for one in api.loadAnns(api.getAnnIds([image_id]))]


def yolo(root: Path) -> Path:
    for name in ("train/a", "train/b", "val/c"):
        image(root / "images" / f"{name}.png")
    texts = {
        "labels/train/a.txt": "1 0.5 0.5 0.25 0.5\n0 0.1 0.1 0.5 0.1 0.5 0.6\n",
        "labels/val/c.txt": "0 0 0.5 0.5 0.5\n",
        "data.yaml": "path: .\ntrain: images/train\nval: images/val\nnames: {0: cat, 1: dog}\n",
    }
    return write_texts(root, texts)


def voc(root: Path, size: tuple[int, int] = (WIDTH, HEIGHT)) -> Path:
    for name, split in (("a", "train"), ("b", "val")):
        image(root / "JPEGImages" / f"{name}.jpg")
        write_text(root / "ImageSets" / "Main" / f"{split}.txt", f"{name}\n")
        write_text(
            root / "Annotations" / f"{name}.xml",
            f"<annotation><filename>{name}.jpg</filename><size><width>{size[0]}</width><height>{size[1]}</height>"
            "<depth>3</depth></size><object><name>person</name><difficult>0</difficult><bndbox><xmin>1</xmin>"
            "<ymin>11</ymin><xmax>10</xmax><ymax>40</ymax></bndbox></object><object><name>boat</name><difficult>1"
            "</difficult><bndbox><xmin>21</xmin><ymin>1</ymin><xmax>21</xmax><ymax>2</ymax></bndbox></object>"
            "</annotation>",
        )
    return root


def labelme(root: Path, name: str, shapes: list[dict[str, Any]], **more: Any) -> Path:
    image(root / f"{name}.png")
    document = {"shapes": shapes, "imagePath": f"{name}.png", "imageHeight": HEIGHT, "imageWidth": WIDTH} | more
    write_text(root / f"{name}.json", json.dumps(document))
    return root


def coco(root: Path, images: int = 60) -> Path:
    """Every third image has a van, every second a car, every tenth a boat; image 7 has a crowd with keypoints."""
    records = []
    for number in range(images):
        image(root / "train" / f"{number}.png", number)
        for category, every in ((3, 3), (8, 2), (20, 10)):
            if number % every == 0:
                records.append({"image_id": number, "category_id": category, "bbox": [1, 2, 10, 20], "area": 150.5})
    records.append({"image_id": 7, "category_id": 8, "bbox": [0, 0, 5, 5], "iscrowd": 1, "keypoints": [1, 2, 2]})
    document = {
        "images": [{"id": n, "file_name": f"{n}.png", "width": WIDTH, "height": HEIGHT} for n in range(images)],
        "annotations": [{"id": n} | record for n, record in enumerate(records)],
        "categories": [{"id": 3, "name": "van"}, {"id": 8, "name": "car"}, {"id": 20, "name": "boat"}],
    }
    write_text(root / "train.json", json.dumps(document))
    return root


def test_yolo_boxes_and_polygons_become_pixels(tmp_path: Path):
    out = tmp_path / "out"
    with pytest.warns(UserWarning, match=r"1 image has no text file: images/train/b.png"):
        converted = convert_dataset("yolo", yolo(tmp_path / "in"), out)
    assert repr(converted).startswith("Annotated(2 classes, train: 2 images")
    box, polygon = annotations(out / "annotations/instances_train.json", "a.png")
    # x from 0.375 to 0.625 of 80, y from 0.25 to 0.75 of 40
    assert (box["class"], box["bbox"], box["area"]) == ("dog", [30, 10, 20, 20], 400)
    facts = [polygon[key] for key in ("class", "bbox", "segmentation", "area")]
    assert facts == ["cat", [8, 4, 32, 20], [[8, 4, 40, 4, 40, 24]], 32 * 20 / 2]
    assert read(out / "annotations/instances_train.json").annToMask(polygon).sum() == pytest.approx(320, abs=20)
    assert annotations(out / "annotations/instances_train.json", "b.png") == [], (
        "an image without a text file has no objects"
    )
    [clipped] = annotations(out / "annotations/instances_val.json", "c.png")
    assert clipped["bbox"] == [0, 10, 20, 20], "clipped to the image"
    dataset = densevit.create_dataset("coco", "train", root=str(out))
    assert len(dataset) == 2 and [one.name for one in dataset.classes["detection"]] == ["cat", "dog"]
    assert (out / "images/train/a.png").stat().st_ino == (tmp_path / "in/images/train/a.png").stat().st_ino, (
        "a hard link"
    )


A_TXT = "labels/train/a.txt"


@pytest.mark.filterwarnings("ignore:.*text file")
@pytest.mark.parametrize(
    ("format", "file", "content", "facts"),
    [
        ("yolo", A_TXT, b"2 0.5 0.5 0.2 0.2", ("a.txt, line 1", "the class is 2", "0 to 1")),
        ("yolo", A_TXT, b"0 30 10 20 20", ("a.txt, line 1", "30 is not within 0 ... 1")),
        ("yolo", A_TXT, b"0 0.5 0.5 0.2 wide", ("a.txt, line 1", "'wide'")),
        ("yolo", "data.yaml", None, ("class names", "data.yaml")),
        ("yolo", "data.yaml", b"train: images/train\nval: nowhere\nnames: [cat, dog]\n", ("'nowhere' does not exist",)),
        ("voc", "notes.txt", None, ("a.xml", "40 x 40", "a.jpg", "80 x 40")),
    ],
)
def test_what_is_wrong_in_a_file_is_named(tmp_path: Path, format: str, file: str, content: Any, facts: tuple[str, ...]):
    root = yolo(tmp_path / "in") if format == "yolo" else voc(tmp_path / "in", (40, 40))
    (root / file).unlink(missing_ok=True)
    if content is not None:
        (root / file).write_bytes(content)
    with pytest.raises(DataError) as caught:
        convert_dataset(format, root, tmp_path / "out", strict=True)
    assert all(fact in str(caught.value) for fact in facts), caught.value
    assert not list(tmp_path.glob("out*")), "nothing is left behind"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("convert coco in there", "there is not empty. Name another path"),
        ("convert coco nothing out", "there is no such file or folder"),
        ("convert coco ther out", "Did you mean 'there'?"),
        ("convert coco in out --merge cra=car", "no class 'cra'. Did you mean 'car'?"),
        ("convert coco in out --splits train=-1", "train"),
        ("convert yol in out", "yolo"),
        ("convrt", "convert"),
    ],
)
def test_mistakes_of_the_user_are_errors(cwd: Path, run, arguments: str, message: str):
    coco(cwd / "in", 8)
    (cwd / "there" / "x").mkdir(parents=True)
    assert message in run("data", *arguments.split(), code=2)


@pytest.mark.filterwarnings("ignore:.*text file")
def test_all_faults_are_listed_at_once_with_the_fix(tmp_path: Path):
    root = yolo(tmp_path / "in")
    write_text(root / "data.yaml", (root / "data.yaml").read_text() + "test: ../test/images\n")
    with pytest.warns(UserWarning, match=r"'\.\./test/images' does not exist"):
        assert set(convert_dataset("yolo", root, tmp_path / "first").splits) == {"train", "val"}
    for name in ("train/b.png", "val/c.png"):
        image(root / "images" / name, damaged=True)
    write_text(root / A_TXT, "2 0.5 0.5 0.2 0.2\n0 0.5 0.5 0.2 0.2\n0 30 10 20 20\n")
    with pytest.raises(DataError) as caught:
        convert_dataset("yolo", root, tmp_path / "out", strict=True)
    _, *lines, fix = str(caught.value).splitlines()
    assert "Fix: " in fix
    places = ("images/train/b.png", "images/val/c.png", f"{A_TXT}, line 1", f"{A_TXT}, line 3")
    assert all(str(root / place) in line for place, line in zip(places, lines, strict=True))
    write_text(root / A_TXT, "2 0.5 0.5 0.2 0.2\n" * 30)
    with pytest.raises(DataError, match=r"has 32 faults:(\n.*){10}\n  \.\.\. and 22 more\nFix: "):
        convert_dataset("yolo", root, tmp_path / "out")
    assert not list(tmp_path.glob("out*"))
    (root / A_TXT).unlink()
    image(root / "images" / "train" / "a.png", damaged=True)
    with pytest.raises(DataError, match=r"none of 3 images can be read"):
        convert_dataset("yolo", root, tmp_path / "out", skip_unreadable=True)


def test_voc_boxes_count_from_one_and_difficult_objects_are_crowds(tmp_path: Path):
    root = voc(tmp_path / "in")
    pixels = np.zeros((HEIGHT, WIDTH), np.uint8)
    pixels[12:20, 2:6], pixels[0, 0] = 1, 255
    (root / "SegmentationObject").mkdir()
    coded = Image.fromarray(pixels)
    coded.putpalette(np.arange(768) % 256)
    coded.save(root / "SegmentationObject" / "b.png")
    convert_dataset("voc", root, tmp_path / "out")
    person, boat = annotations(tmp_path / "out" / "annotations/instances_train.json", "a.jpg")
    # pixels 1 to 10 are columns 0 to 9
    assert (person["class"], person["bbox"], person["iscrowd"]) == ("person", [0, 10, 10, 30], 0)
    assert (boat["class"], boat["bbox"], boat["iscrowd"]) == ("boat", [20, 0, 1, 2], 1), "one pixel wide"
    person, boat = annotations(tmp_path / "out" / "annotations/instances_val.json", "b.jpg")
    np.testing.assert_array_equal(
        read(tmp_path / "out" / "annotations/instances_val.json").annToMask(person), pixels == 1
    )
    assert person["area"] == 32 and "segmentation" not in boat


def test_labelme_shapes(tmp_path: Path):
    square = {"label": "leaf", "shape_type": "polygon", "points": [[10, 10], [20, 10], [20, 20], [10, 20]]}
    part = {"label": "leaf", "shape_type": "polygon", "points": [[40, 10], [50, 10], [45, 20]], "group_id": 3}
    mask = np.zeros((4, 6), np.uint8)
    mask[1:3, 2:5] = 255
    pixels = base64.b64encode(encoded(mask)).decode()
    coded = {"label": "spot", "shape_type": "mask", "points": [[30, 20], [35, 23]], "mask": pixels}
    shapes = [
        square,
        {"label": "stem", "shape_type": "rectangle", "points": [[60, 30], [50, 5]]},
        part,
        part | {"points": [[60, 10], [70, 10], [65, 20]]},
        {"label": "dot", "shape_type": "circle", "points": [[20, 20], [20, 30]]},
        coded,
        {"label": "tip", "shape_type": "point", "points": [[1, 1]]},
    ]
    root = labelme(tmp_path / "in", "a", shapes)
    with pytest.warns(UserWarning, match="7 shapes found: 6 used, 1 left out .1 of the type point, which has"):
        convert_dataset("labelme", root, tmp_path / "out", splits={"train": 1.0})
    found = {
        (one["class"], one["bbox"][0]): one
        for one in annotations(tmp_path / "out" / "annotations/instances_train.json", "a.png")
    }
    facts = {key: (one["bbox"][1:], one["area"], len(one.get("segmentation", ()))) for key, one in found.items()}
    assert facts == {
        ("leaf", 10): ([10, 10, 10], 100, 1),
        ("stem", 50): ([5, 10, 25], 250, 1),
        ("leaf", 40): ([10, 30, 10], 100, 2),  # a group
        ("dot", 10): ([10, 20, 20], pytest.approx(np.pi * 100, rel=0.01), 1),
        ("spot", 32): ([21, 3, 2], 6, 2),
    }
    assert found["leaf", 10]["segmentation"] == [[10, 10, 20, 10, 20, 20, 10, 20]]
    expected = np.zeros((HEIGHT, WIDTH), np.uint8)
    expected[21:23, 32:35] = 1
    np.testing.assert_array_equal(
        read(tmp_path / "out" / "annotations/instances_train.json").annToMask(found["spot", 32]), expected
    )


def test_coco_is_split_by_class_and_classes_are_merged(tmp_path: Path):
    out = tmp_path / "out"
    arguments = ["--splits", "train=0.8,val=0.2", "--merge", "van,car=vehicle"]
    assert main(["data", "convert", "coco", str(coco(tmp_path / "in")), str(out), *arguments, "--quiet"]) == 0
    apis = {split: read(out / f"annotations/instances_{split}.json") for split in ("train", "val")}
    assert apis["val"].dataset["categories"] == [{"id": 3, "name": "vehicle"}, {"id": 20, "name": "boat"}]
    counts = [[len(set(api.getImgIds(catIds=[category]))) for api in apis.values()] for category in (20, 3)]
    assert counts == [[5, 1], [33, 8]], "of 6 and 41, as nearly as possible"
    names = [one["file_name"] for api in apis.values() for one in api.dataset["images"]]
    assert sorted(names) == sorted(f"{n}.png" for n in range(60)), "each image once"
    objects = [one for api in apis.values() for one in api.dataset["annotations"]]
    assert {one["area"] for one in objects if not one["iscrowd"]} == {150.5}, "kept as annotated"
    [crowd] = [one for one in objects if one["iscrowd"]]
    assert crowd["keypoints"] == [1, 2, 2] and crowd["area"] == 25
