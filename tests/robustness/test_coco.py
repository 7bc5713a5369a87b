"""COCO files with one error each: refused before training, with the file, what was found and what is expected."""

import json
import math
from pathlib import Path
from typing import Any

import pytest

from tests.data.coco_folder import noise
from tests.written_files import save_image

Document = dict[str, Any]

TINY = """
backbone: {name: swin, variant: nano, window_size: 4}
heads:
  detection:
    {name: detr, num_queries: 4, transformer: {width: 16, num_heads: 2, encoder_layers: 1, decoder_layers: 1}}
data: {name: coco, masks: true, image_size: 64, batch_size: 1, num_workers: 0}
trainer: {max_steps: 1, accelerator: cpu, precision: "32"}
"""
SIZES = ((40, 56), (33, 41))  # height, width


def document() -> Document:
    """Two images and three objects: a polygon, compressed and uncompressed run-length encoding."""
    half = 40 * 56 // 2
    return {
        "images": [
            {"id": i + 1, "file_name": f"{i}.png", "height": h, "width": w} for i, (h, w) in enumerate(SIZES)
        ],
        "categories": [{"id": 3, "name": "cat"}, {"id": 7, "name": "dog"}],
        "annotations": [
            {
                "id": 11, "image_id": 1, "category_id": 3, "bbox": [4, 5, 20, 10], "area": 200, "iscrowd": 0,
                "segmentation": [[4, 5, 24, 5, 24, 15, 4, 15]],
            },
            {
                "id": 12, "image_id": 1, "category_id": 7, "bbox": [0, 0, 28, 40], "area": half, "iscrowd": 1,
                "segmentation": {"size": [40, 56], "counts": [0, half, half]},
            },
            {
                "id": 13, "image_id": 2, "category_id": 7, "bbox": [1, 1, 9, 9], "area": 81, "iscrowd": 0,
                "segmentation": [[1, 1, 10, 1, 10, 10, 1, 10]],
            },
        ],
    }  # fmt: skip


def write(folder: Path, train: Document | str, val: Document | None = None) -> None:
    for split, content in (("train", train), ("val", document() if val is None else val)):
        for i, (height, width) in enumerate(SIZES):
            save_image(folder / split / f"{i}.png", noise(i, height, width))
        (folder / f"{split}.json").write_text(content if isinstance(content, str) else json.dumps(content))
    (folder / "tiny.yaml").write_text(TINY)


def changed(section: str, number: int = 0, **values: Any) -> Document:
    """The document with other values of an entry; None removes a key."""
    content = document()
    entry = content[section][number] | values
    content[section][number] = {key: value for key, value in entry.items() if value is not None}
    return content


OF_11, OF_12 = "annotation 11 of image 0.png", "annotation 12 of image 0.png"
WRONG: dict[str, tuple[Document | str, tuple[str, ...]]] = {
    # polygons
    "polygon with NaN": (
        changed("annotations", segmentation=[[4, 5, math.nan, 5, 24, 15]]), (OF_11, "segmentation", "nan")
    ),
    "polygon of two points": (changed("annotations", segmentation=[[4, 5, 24, 5]]), (OF_11, "three points")),
    "no segmentation": (changed("annotations", segmentation=None), (OF_11, "data.masks")),
    # run lengths
    "a broken code": (changed("annotations", 1, segmentation={"size": [40, 56], "counts": "~~~~"}), (OF_12,)),
    "a size that is not the image's": (
        changed("annotations", 1, segmentation={"size": [10, 10], "counts": [0, 100]}), (OF_12, "10 x 10")
    ),
    # boxes and areas
    "box with NaN": (changed("annotations", bbox=[math.nan, 5, 20, 10]), ("annotation 11", "four finite numbers")),
    "no box": (changed("annotations", bbox=None), (f"{OF_11} has no `bbox`",)),
    # crowds
    "iscrowd of 2": (changed("annotations", iscrowd=2), ("annotation 11", "iscrowd 2", "0 or 1")),
    # identifiers
    "image id twice": (changed("images", id=2), ("image id 2", "0.png", "1.png")),
    "category id twice": (changed("categories", id=7), ("category id 7", "'cat'", "'dog'")),
    "category name twice": (changed("categories", name="dog"), ("'dog'", "3 and 7", "names must differ")),
    "an unknown image": (changed("annotations", image_id=5), ("annotation 11", "image_id 5", "Known: 1, 2")),
    "an unknown category": (changed("annotations", category_id=5), ("annotation 11", "category_id 5", "Known: 3, 7")),
    # images
    "no file name": (changed("images", file_name=None), ("image 1 has no `file_name`",)),
    "file missing": (changed("images", file_name="9.png"), ("1 do not exist", "9.png")),
    "another size": (changed("images", height=41), (OF_12, "56 x 40", "56 x 41")),
    # sections and files
    "no annotations": ({**document(), "annotations": None}, ("no `annotations`", "train")),
    "no objects": ({**document(), "annotations": []}, ("no object",)),
    "cut short": (json.dumps(document())[:300], ("not valid json",)),
    "a list": ("[]", ("holds a list",)),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_invalid_file_is_refused(case, refused, tmp_path):
    content, says = WRONG[case]
    write(tmp_path, content)
    error = refused("train", "tiny.yaml", "data.root=.", says=says)
    assert "train.json" in error or "train/" in error


@pytest.mark.parametrize(("annotations", "says"), [(None, "no `annotations`"), ([], "no object")])
def test_evaluated_split_without_labels_is_refused(annotations, says, refused, tmp_path):
    write(tmp_path, document(), {**document(), "annotations": annotations})
    refused("train", "tiny.yaml", "data.root=.", says=("val.json", says))
