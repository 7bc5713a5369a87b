"""The counts of `doctor` for a COCO json add up."""

import json

import densevit
from tests.data.datasets.test_coco_counts import write


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
    diagnosis = densevit.doctor(root)
    images, objects, files = diagnosis.inventories["train"]
    assert images.total == 11
    assert {reason: len(names) for reason, names in images.skipped.items()} == {
        "invalid entries of `images`": 1,
        "duplicate image ids": 1,
        "without a file": 1,
        "with an invalid file": 1,
    }
    used = {4, 5, 6, 7, 0, 1}  # ids of valid objects in readable images, counted by hand
    assert (objects.total, objects.used, images.used) == (15, len(used), 7)
    assert {reason: len(names) for reason, names in objects.skipped.items()} == {
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
