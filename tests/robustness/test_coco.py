"""COCO files with one error each: refused before training, with the file, what was found and what is expected."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from densevit.data.datasets.coco_dataset import Coco

Document = dict[str, Any]
Change = Callable[[Document], Any]

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


def write(folder: Path, train: Document | str | bytes, val: Document | None = None) -> None:
    for split, content in (("train", train), ("val", document() if val is None else val)):
        (folder / split).mkdir(parents=True)
        for i, (height, width) in enumerate(SIZES):
            pixels = np.random.default_rng(i).integers(0, 255, (height, width, 3), np.uint8)
            Image.fromarray(pixels).save(folder / split / f"{i}.png")
        file = folder / f"{split}.json"
        if isinstance(content, bytes):
            file.write_bytes(content)
        else:
            file.write_text(content if isinstance(content, str) else json.dumps(content))
    (folder / "tiny.yaml").write_text(TINY)


def changed(change: Change) -> Document:
    content = document()
    change(content)
    return content


def of_annotation(number: int = 0, **values: Any) -> Change:
    return lambda content: content["annotations"][number].update(values)


def of_image(**values: Any) -> Change:
    return lambda content: content["images"][0].update(values)


def of_category(**values: Any) -> Change:
    return lambda content: content["categories"][0].update(values)


def without(section: str, key: str) -> Change:
    return lambda content: content[section][0].pop(key)


def whole(**values: Any) -> Change:
    return lambda content: content.update(values)


def run_lengths(counts: Any, size: Any = (40, 56)) -> Change:
    return of_annotation(1, segmentation={"size": list(size) if isinstance(size, tuple) else size, "counts": counts})


def polygon(*numbers: Any) -> Change:
    return of_annotation(segmentation=[list(numbers)])


WRONG: dict[str, tuple[Change, tuple[str, ...]]] = {
    # polygons
    "polygon with NaN": (polygon(4, 5, math.nan, 5, 24, 15), ("annotation 11 of image 0.png", "segmentation", "nan")),
    "polygon of two points": (polygon(4, 5, 24, 5), ("annotation 11 of image 0.png", "three points")),
    "no segmentation": (without("annotations", "segmentation"), ("annotation 11 of image 0.png", "data.masks")),
    # run lengths
    "a broken code": (run_lengths("~~~~"), ("annotation 12 of image 0.png",)),
    "a size that is not the image's": (run_lengths([0, 100], (10, 10)), ("annotation 12 of image 0.png", "10 x 10")),
    # boxes and areas
    "box with NaN": (of_annotation(bbox=[math.nan, 5, 20, 10]), ("annotation 11", "four finite numbers")),
    "no box": (without("annotations", "bbox"), ("annotation 11 of image 0.png has no `bbox`",)),
    # crowds
    "iscrowd of 2": (of_annotation(iscrowd=2), ("annotation 11", "iscrowd 2", "0 or 1")),
    # identifiers
    "image id twice": (of_image(id=2), ("image id 2", "0.png", "1.png")),
    "category id twice": (of_category(id=7), ("category id 7", "'cat'", "'dog'")),
    "category name twice": (of_category(name="dog"), ("'dog'", "3 and 7", "names must differ")),
    "an unknown image": (of_annotation(image_id=5), ("annotation 11", "image_id 5", "Known: 1, 2")),
    "an unknown category": (of_annotation(category_id=5), ("annotation 11", "category_id 5", "Known: 3, 7")),
    # images
    "no file name": (without("images", "file_name"), ("image 1 has no `file_name`",)),
    "file missing": (of_image(file_name="9.png"), ("1 do not exist", "9.png")),
    "another size": (of_image(height=41), ("annotation 12 of image 0.png", "56 x 40", "56 x 41")),
    # sections
    "no annotations": (lambda c: c.pop("annotations"), ("train.json", "no `annotations`", "train")),
    "no objects": (whole(annotations=[]), ("train.json", "no object")),
}  # fmt: skip
FILES: dict[str, tuple[str | bytes, tuple[str, ...]]] = {
    "cut short": (json.dumps(document())[:300], ("train.json", "not valid json")),
    "a list": ("[]", ("train.json", "holds a list")),
    "UTF-16": (json.dumps(document()).encode("utf-16"), ()),
}
VALID: dict[str, Change] = {
    "all as usual": lambda _: None,
    "a polygon somewhat outside": polygon(-3, -2, 60.5, -1, 58, 44, -1, 43),
    "no size": lambda c: [c["images"][0].pop(key) for key in ("height", "width")],
    "an image without objects": lambda c: c["annotations"].pop(),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_invalid_annotation_is_refused(case, refused, tmp_path):
    change, says = WRONG[case]
    write(tmp_path, changed(change))
    error = refused("train", "tiny.yaml", "data.root=.", says=says)
    assert "train.json" in error or "train/" in error


@pytest.mark.parametrize("case", FILES)
def test_invalid_file_is_refused(case, refused, tmp_path):
    content, says = FILES[case]
    write(tmp_path, content)
    if case == "UTF-16":  # allowed in JSON
        assert len(Coco("train", str(tmp_path), masks=True)) == 2
        return
    refused("train", "tiny.yaml", "data.root=.", says=says)


@pytest.mark.parametrize("case", VALID)
def test_valid_file_is_accepted(case, tmp_path):
    write(tmp_path, changed(VALID[case]))
    dataset = Coco("train", str(tmp_path), masks=True)
    for index, size in enumerate(SIZES):
        targets = dataset[index]["targets"]
        assert targets["masks"].shape == (len(targets["boxes"]), *size)
    assert all("\n" not in one.name for one in dataset.classes["detection"])
    if case == "all as usual":
        assert dataset[0]["targets"]["masks"].areas().tolist() == [200, 40 * 56 // 2]


@pytest.mark.parametrize(("annotations", "says"), [(None, "no `annotations`"), ([], "no object")])
def test_evaluated_split_without_labels_is_refused(annotations, says, refused, tmp_path):
    write(tmp_path, document(), {**document(), "annotations": annotations})
    refused("train", "tiny.yaml", "data.root=.", says=("val.json", says))
