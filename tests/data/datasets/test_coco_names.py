"""File names of COCO jsons as other programs write them, in `coco` and `coco_panoptic`."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from densevit.data.dataset_builder import create_dataset
from densevit.errors import DataError
from densevit.interfaces import Dataset

DATASETS = ("coco", "coco_panoptic")


def write(root: Path, name: str, written: str, on_disk: str | None) -> Path:
    """A data set with one image, called `written` in the json; with the PNG of its segments for coco_panoptic."""
    folder = root / "train2017"
    paths = [] if on_disk is None else [folder / on_disk]
    image = {"id": 1, "file_name": written, "width": 8, "height": 6}
    categories = [{"id": 1, "name": "cat", "isthing": 1}]
    annotation: dict[str, Any] = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 1, 4, 4]}
    file = "instances_train2017.json"
    if name == "coco_panoptic":
        segments = written.replace(".jpg", ".png")
        annotation = {"image_id": 1, "file_name": segments, "segments_info": [{"id": 1, "category_id": 1}]}
        file = "panoptic_train2017.json"
        if on_disk is not None:
            paths.append(root / "annotations" / "panoptic_train2017" / on_disk.replace(".jpg", ".png"))
    (root / "annotations" / "panoptic_train2017").mkdir(parents=True)
    folder.mkdir()
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.zeros((6, 8, 3), np.uint8)
        pixels[..., 0] = 1 if path.suffix == ".png" else 200
        Image.fromarray(pixels).save(path)
    content = {"images": [image], "annotations": [annotation], "categories": categories}
    (root / "annotations" / file).write_text(json.dumps(content))
    (root / "annotations" / file.replace("train", "val")).touch()  # so that train is not divided
    return root


def read(root: Path, name: str, **options: Any) -> Dataset:
    return create_dataset(name, "train", root=str(root), **options)


@pytest.mark.parametrize("name", DATASETS)
@pytest.mark.parametrize("written", ["%2e%2e/a.jpg", "sub\\..\\..\\a.jpg"])
def test_no_form_of_a_name_leads_out_of_the_folder(tmp_path, name, written):
    root = write(tmp_path, name, written, "../a.jpg")
    (root / "train2017" / "sub").mkdir()
    (root / "annotations" / "panoptic_train2017" / "sub").mkdir()
    with pytest.raises(DataError, match=r"outside of .*data\.outside_paths=true"):
        read(root, name)
    found = read(root, name, outside_paths=True)
    assert len(found[0]["targets"]["boxes"]) == 1 and os.path.samefile(found.path(0), root / "a.jpg")
    if name == "coco":
        assert found.image_name(0) == written
