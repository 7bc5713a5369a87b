"""densevit/data/datasets/coco_layouts.py: where the json and its images are found."""

import pytest

from densevit.data.datasets.coco_dataset import Coco
from densevit.errors import DataError
from tests.data.datasets.conftest import coco_document as document

FOUR = [{"id": 5 * k, "file_name": f"{k}.jpg", "height": 30, "width": 40} for k in range(4)]


@pytest.mark.parametrize(
    ("file", "folder"),
    [
        ("annotations/instances_{}2017.json", "{}2017"),
        ("annotations/instances_{}2014.json", "images/{}2014"),
        ("{}.json", "images"),
        ("annotations/{}.json", "images/{}"),
        ("annotations/{}.json", "{}/images"),
        ("{}/_annotations.coco.json", "{}"),
        ("{}/annotations.json", "{}/images"),
    ],
)
def test_usual_layouts_are_found(file, folder, write_coco):
    for split, spelling in (("train", "train"), ("val", "valid")):
        root = write_coco(None, file.format(spelling), folder.format(spelling), root=f"set-{spelling}")
        assert len(Coco(split, root=str(root))) == 3


@pytest.mark.parametrize(
    ("file", "folder"),
    [
        ("annotations/instances_default.json", "images/default"),  # CVAT
        ("labels/of all.json", "photos/2024"),
        ("_annotations.coco.json", "."),
    ],
)
def test_single_json_is_found_under_any_name_with_its_images(file, folder, write_coco):
    root = write_coco(document(images=FOUR), file, folder)
    assert Coco.recognise(root) == {}
    datasets = [Coco(split, root=str(root)) for split in ("train", "val")]
    ids = {one[i]["targets"]["image_id"] for one in datasets for i in range(len(one))}
    assert ids == {0, 5, 10, 15}


def test_file_options_override_the_layout(write_coco, cwd):
    root = write_coco(None, "labels/mine.json", "photos")
    write_coco(document(images=document()["images"][:2]), "labels/other.json", "photos/other")
    options = {
        "annotations": {"train": "labels/mine.json", "val": "labels/other.json"},
        "images": {"train": "photos", "val": "photos/other"},
    }
    assert [len(Coco(split, root=str(root), **options)) for split in ("train", "val")] == [3, 2]
    assert len(Coco("test", root=str(root), annotations="labels/mine.json", images="photos")) == 3
    assert len(Coco("test", annotations="set/labels/mine.json", images="set/photos")) == 3


def test_unknown_layout_error_lists_the_expected_paths(write_coco):
    write_coco(None, "one.json", "train")
    root = write_coco(None, "two.json", "train")
    with pytest.raises(DataError) as caught:
        Coco("train", root=str(root))
    assert "Found 2 files in COCO's format with other names: one.json, two.json" in str(caught.value)
    for looked in ("annotations/instances_train2017.json", "train.json", "train/_annotations.coco.json"):
        assert looked in str(caught.value)
    assert "data.annotations.train and data.images.train" in str(caught.value)
    with pytest.raises(DataError, match=r"no annotation file .*set/x\.json"):
        Coco("train", root=str(root), annotations="x.json")
