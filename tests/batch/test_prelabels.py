"""Predictions as a COCO json for label tools, read by pycocotools."""

import json
from pathlib import Path

import numpy as np
import pytest
from pycocotools import mask as rle

from densevit.errors import DataError
from densevit.interfaces import Class
from densevit.model import InferenceModel
from densevit_batch.prelabels import prelabel
from tests.small_models import Cells
from tests.workbench.interchange.test_dataset_conversion import read
from tests.written_files import write_texts

CLASSES = {"detection": (Class("cat", 3, (1, 2, 3)), Class("dog", 7, (1, 2, 3)))}


class StandIn(InferenceModel):
    classes, heads, score_thresholds = CLASSES, {"detection": Cells((3,), (1,), CLASSES["detection"])}, {}

    def fingerprint(self) -> str:
        return "0123456789abcdef"


MODEL = StandIn()

SETTINGS = {
    "model": "run",
    "weights": MODEL.fingerprint(),
    "categories": {"detection": [{"id": 3, "name": "cat"}, {"id": 7, "name": "dog"}]},
}


def folder(tmp_path: Path, entries: list, name: str = "predictions.json") -> Path:
    images = [{"id": f"photos/{n}", "file_name": f"/photos/{n}.jpg", "width": 60, "height": 40} for n in range(2)]
    contents = {"images.json": images, name: entries, "predict.json": SETTINGS}
    return write_texts(tmp_path / "found", {file: json.dumps(content) for file, content in contents.items()})


def test_boxes_keep_their_scores_and_low_ones_are_left_out(tmp_path: Path):
    entries = [
        {"image_id": "photos/1", "category_id": 7, "bbox": [1.5, 2, 10, 20], "score": 0.75},
        {"image_id": "photos/0", "category_id": 3, "bbox": [1, 2, 3, 4], "score": 0.25},
    ]
    out = tmp_path / "labels.json"
    assert prelabel(folder(tmp_path, entries), MODEL, out, threshold=0.5).objects == 1
    api = read(out)
    assert [one["file_name"] for one in api.dataset["images"]] == ["0.jpg", "1.jpg"]
    assert api.dataset["categories"] == [{"id": 3, "name": "cat"}, {"id": 7, "name": "dog"}]
    expected = {"id": 1, "image_id": 2, "iscrowd": 0, "category_id": 7, "score": 0.75, "area": 200}
    assert api.dataset["annotations"] == [expected | {"bbox": [1.5, 2, 10, 20]}]


def test_masks_become_polygons_of_the_same_pixels(tmp_path: Path):
    y, x = np.mgrid[:40, :60]
    mask = ((x - 30) ** 2 + (y - 20) ** 2 < 200) | ((x > 50) & (y > 30))
    code = rle.encode(np.asfortranarray(mask.astype(np.uint8)))
    segmentation = {"size": [40, 60], "counts": code["counts"].decode()}
    entry = {"image_id": "photos/0", "category_id": 3, "score": 0.9, "segmentation": segmentation}
    out = tmp_path / "labels.json"
    assert prelabel(folder(tmp_path, [entry], "detection/predictions.json"), MODEL, out) == (1, "detection", 0.5)
    api = read(out)
    [one] = api.dataset["annotations"]
    assert len(one["segmentation"]) == 2 and one["area"] == mask.sum()
    assert one["bbox"] == rle.toBbox(code).tolist()
    drawn = api.annToMask(one).astype(bool)
    assert (drawn & mask).sum() / (drawn | mask).sum() > 0.97


def test_a_folder_without_objects_is_an_error(tmp_path: Path):
    found = folder(tmp_path, [])
    (found / "predictions.json").unlink()
    with pytest.raises(DataError, match=r"has no predictions.json or objects.parquet with objects"):
        prelabel(found, MODEL, tmp_path / "labels.json")
