"""Crowds, image files that no json names, and counts of a COCO json that add up."""

import json
import warnings
from pathlib import Path
from typing import Any

import pytest

import densevit
from densevit.data.datasets.coco_dataset import Coco
from densevit.errors import DataError
from tests.data.coco_folder import noise, write_split


def write(root: Path, split: str, crowds: list[int]) -> dict[str, Any]:
    """One image per object. crowds: `iscrowd` of each. Returns the json."""
    objects = [{"image_id": i, "category_id": 1, "bbox": [2, 3, 20, 10], "iscrowd": c} for i, c in enumerate(crowds)]
    return write_split(root, split, [noise(i, 30, 40) for i in range(len(crowds))], objects)


@pytest.mark.parametrize(
    ("crowds", "objects", "said"),
    [([1] * 10, 0, True), ([1] + [0] * 19, 19, False), ([1, 1] + [0] * 18, 18, True)],
)
def test_the_key_decides_on_crowds(tmp_path, crowds, objects, said):
    """Without it, crowds are said where they are more than 5 % of the objects."""
    root = str(tmp_path)
    write(tmp_path, "train", crowds)
    (tmp_path / "val.json").touch()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        default = Coco("train", root)
    assert len(caught) == said and default.object_counts().sum() == objects
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ignored, used = (Coco("train", root, crowds=kind) for kind in ("ignore", "objects"))
    assert ignored.object_counts().sum() == objects and used.object_counts().sum() == len(crowds)
    assert ignored[0]["targets"]["iscrowd"].tolist() == [bool(crowds[0])]
    assert used[0]["targets"]["iscrowd"].tolist() == [False]
    if not objects:
        with pytest.raises(DataError, match=r"no object, except crowds.*data\.crowds=objects"):
            default.check_labels()


def test_the_counts_of_doctor_add_up(tmp_path):
    root = tmp_path / "set"
    write(root, "val", [0, 0])
    content = write(root, "train", [0, 0, 1, 0, 0, 0, 0, 0])
    content["images"] += [{"id": 0, "file_name": "7.png"}, {"id": 50}, {"id": 51, "file_name": "gone.png"}]
    content["annotations"] += [
        {"id": 0, "image_id": 1, "category_id": 1, "bbox": [1, 1, 5, 5]},  # the id of another
        {"id": 90, "image_id": 77, "category_id": 1, "bbox": [1, 1, 5, 5]},
        {"id": 91, "image_id": 1, "category_id": 9, "bbox": [1, 1, 5, 5]},
        {"id": 92, "image_id": 1, "category_id": 1, "bbox": [1, 1, 5]},
        {"id": 93, "image_id": 1, "category_id": 1, "bbox": [60, 1, 5, 5], "iscrowd": 0},
        {"id": 94, "image_id": 51, "category_id": 1, "bbox": [1, 1, 5, 5]},
        {"id": 95, "image_id": 50, "category_id": 1, "bbox": [1, 1, 5, 5]},
    ]
    (root / "train.json").write_text(json.dumps(content))
    (root / "train" / "3.png").write_bytes(b"damaged")
    diagnosis = densevit.diagnose(root)
    images, objects, files = diagnosis.inventories["train"]
    assert images.total == 11
    assert {reason: len(names) for reason, names in images.left_out.items()} == {
        "invalid entries of `images`": 1,
        "duplicate image ids": 1,
        "without a file": 1,
        "with an invalid file": 1,
    }
    used = {4, 5, 6, 7, 0, 1}  # ids of valid objects in readable images, counted by hand
    assert (objects.total, objects.used, images.used) == (15, len(used), 7)
    assert {reason: len(names) for reason, names in objects.left_out.items()} == {
        "duplicate annotation ids": 1,
        "invalid boxes": 1,
        "crowds": 1,
        "annotations of unknown images": 2,
        "annotations of unknown categories": 1,
        "of images without a file": 1,
        "of images with an invalid file": 1,
        "without area inside their image": 1,
    }
    assert (files.total, files.used) == (8, images.used)  # all but the damaged one
