"""Open Images with its official columns, and LVIS' fields: boxes, and the classes that are labelled in each image."""

import json
from pathlib import Path

import pytest

import densevit
from densevit.errors import ConfigError, DataError
from densevit_workbench.interchange.dataset_conversion import convert_dataset
from tests.workbench.interchange.test_dataset_conversion import annotations, image
from tests.written_files import write_text, write_texts

BOX_COLUMNS = (
    "ImageID,Source,LabelName,Confidence,XMin,XMax,YMin,YMax,IsOccluded,IsTruncated,IsGroupOf,IsDepiction,IsInside\n"
)


def open_images(root: Path) -> Path:
    """With the columns of the official files. Image b has no box, c no row; rows of image d, which is not there."""
    for name in ("validation/a", "validation/b", "validation/c", "train/t"):
        image(root / f"{name}.jpg")
    labels = "ImageID,Source,LabelName,Confidence\n"
    texts = {
        "oidv7-class-descriptions-boxable.csv": 'LabelName,DisplayName\n/m/1,Cat\n/m/2,Dog\n/m/3,"Oboe, old"\n',
        "validation-annotations-bbox.csv": (
            f"{BOX_COLUMNS}a,xclick,/m/1,1,0.25,0.5,0.5,1,0,0,0,0,0\na,activemil,/m/3,1,0,1,0,0.5,0,0,1,0,0\n"
            "a,xclick,/m/1,1,0.5,0.5,0,1,0,0,0,0,0\nd,xclick,/m/1,1,0,1,0,1,0,0,0,0,0\n"
        ),
        "validation-annotations-human-imagelabels.csv": (
            f"{labels}a,verification,/m/1,1\na,verification,/m/2,0\nb,verification,/m/3,0\nb,verification,/m/2,1\n"
            "a,crowdsource-verification,/m/9,0\n"
        ),
        "oidv6-train-annotations-bbox.csv": f"{BOX_COLUMNS}t,xclick,/m/2,1,0,0.5,0,1,0,0,0,0,0\n",
        "train-annotations-human-imagelabels-boxable.csv": f"{labels}t,verification,/m/2,1\n",
    }
    return write_texts(root, texts)


def test_open_images_has_labelled_classes_in_each_image(tmp_path: Path):
    """Those that a person verified: classes with boxes, and those that are not there."""
    with pytest.warns(UserWarning, match="left out") as warned:
        result = convert_dataset("open_images", open_images(tmp_path / "in"), tmp_path / "out")
    assert len(warned) == 2 and result.classes == ("Cat", "Dog", "Oboe, old")
    assert result.notes == ("1 image of the csv files are not there",)
    boxes = {
        one["class"]: (one["bbox"], one["iscrowd"])
        for one in annotations(tmp_path / "out" / "annotations/instances_val.json", "a.jpg")
    }
    assert boxes == {"Cat": ([20, 20, 20, 20], 0), "Oboe, old": ([0, 0, 80, 20], 1)}
    assert [len(result.splits[split]) for split in ("train", "val")] == [1, 2]
    data = densevit.create_dataset("coco", split="val", root=str(tmp_path / "out"))
    labelled = {data.image_name(i): data[i]["targets"]["labelled"] for i in range(len(data))}
    assert labelled == {"a.jpg": ["Cat", "Dog", "Oboe, old"], "b.jpg": ["Oboe, old"]}


def test_open_images_without_a_file_or_a_column_is_an_error(tmp_path: Path):
    root = open_images(tmp_path / "in")
    file = root / "validation-annotations-human-imagelabels.csv"
    write_text(file, "ImageID,LabelName\n")
    with pytest.raises(DataError, match=r"imagelabels\.csv: the first line lacks Confidence; found"):
        convert_dataset("open_images", root, tmp_path / "out")
    for each in root.glob("*class-descriptions*"):
        each.unlink()
    with pytest.raises(DataError, match=r"no file \*class-descriptions\*\.csv of Open Images.*Fix: "):
        convert_dataset("open_images", root, tmp_path / "out")


def test_coco_keeps_the_classes_that_are_labelled_in_each_image(tmp_path: Path):
    """LVIS' fields: an image with a cat in which more may be unlabelled, one without birds, one with all labels."""
    lvis = {"neg_category_ids": [9], "not_exhaustive_category_ids": [7]}
    cat = {"id": 1, "image_id": 1, "category_id": 7, "bbox": [1, 1, 4, 4], "area": 16, "iscrowd": 0}
    categories = [{"id": 7, "name": "cat"}, {"id": 8, "name": "dog"}, {"id": 9, "name": "bird"}]
    for split, name, more, objects in (
        ("train", "a", lvis, [cat]), ("train", "b", {"neg_category_ids": [9]}, []), ("val", "c", {}, []),
    ):  # fmt: skip
        image(tmp_path / "in" / split / f"{name}.png")
        file = tmp_path / "in" / f"{split}.json"
        document = json.loads(file.read_text()) if file.is_file() else {"images": [], "annotations": []}
        document["images"].append({"id": ord(name) - 96, "file_name": f"{name}.png", "width": 80, "height": 40} | more)
        document["annotations"] += objects
        write_text(file, json.dumps(document | {"categories": categories}))
    convert_dataset("coco", tmp_path / "in", tmp_path / "out")
    labelled = {}
    for split in ("train", "val"):
        data = densevit.create_dataset("coco", split=split, root=str(tmp_path / "out"))
        labelled |= {data.image_name(i): data[i]["targets"].get("labelled") for i in range(len(data))}
    assert labelled == {"a.png": ["bird"], "b.png": ["bird"], "c.png": None}
    with pytest.raises(ConfigError, match="merge"):
        convert_dataset("coco", tmp_path / "in", tmp_path / "merged", merge={"cat": "animal"})
