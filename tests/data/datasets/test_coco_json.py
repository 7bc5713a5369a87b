"""densevit/data/datasets/coco_json.py: the images and annotations of a json, and what is wrong with them."""

from typing import Any

import pytest

from densevit.data.datasets.coco_dataset import Coco
from densevit.errors import DataError
from tests.data.datasets.conftest import coco_document as document


def test_a_test_set_without_annotations_is_unlabelled_not_empty(write_coco):
    content = document()
    del content["annotations"]
    dataset = Coco("val", root=str(write_coco(content, "val.json", "val")))
    assert dataset.provides == ()
    assert dataset[0]["targets"] == {"image_id": 0}
    assert len(dataset.classes["detection"]) == 3
    empty = Coco("train", root=str(write_coco(document(annotations=[]))))
    assert empty.provides == ("boxes", "labels") and empty[0]["targets"]["boxes"].shape == (0, 4)


def with_annotation(**changes: Any) -> dict[str, Any]:
    content = document()
    content["annotations"][1] |= changes
    return content


@pytest.mark.parametrize(
    ("content", "facts"),
    [
        (with_annotation(category_id=8), r"annotation 12 .*category_id 8.*Known: 1000, 7, 90"),
        (document(images=[{}]), r"image at position 0 has no `id`"),
        (with_annotation(id=11), r"annotation 11 of image .*has the id of an earlier one, of image .*Fix: renumber"),
        (
            with_annotation(id="\ud800"),
            r"annotation '\\ud800' of image .* has the id '\\ud800'",
        ),  # valid json, but no file can hold it
        ("[1, 2]", r"a list; expected COCO's object"),
    ],
)
def test_invalid_json_error_names_file_and_annotation(content, facts, write_coco):
    """More of them are in `tests/robustness/test_coco.py`."""
    root = str(write_coco(content))
    with pytest.raises(DataError, match=rf"train\.json:? .*{facts}"):
        Coco("train", root=root)


def test_roboflow_group_of_all_classes_is_no_class(write_coco):
    categories = [
        {"id": 0, "name": "cell", "supercategory": "none"},
        *({"id": k, "name": name, "supercategory": "cell"} for k, name in ((7, "cell"), (90, "platelet"))),
    ]
    content = document(categories=categories)
    for split in ("valid", "train", "test"):
        root = write_coco(content, f"{split}/_annotations.coco.json", split)
    for split in ("train", "val", "test"):
        assert [c.name for c in Coco(split, root=str(root)).classes["detection"]] == ["cell", "platelet"]
    content["annotations"][0]["category_id"] = 0  # a class of that number is one
    content["categories"][0]["name"] = content["categories"][1]["supercategory"] = "group"
    content["categories"][2]["supercategory"] = "group"
    root = write_coco(content, root="other")
    assert len(Coco("train", root=str(root)).classes["detection"]) == 3
