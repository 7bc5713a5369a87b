"""densevit/data/datasets/coco_panoptic.py: targets of hand-made segments, layouts, and invalid files."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from densevit.data.datasets.coco_panoptic import CocoPanoptic, panoptic_json
from densevit.errors import DataError
from tests.data.datasets.conftest import opened
from tests.written_files import save_image

# ids of 3 x 4 pixels: two dogs, a crowd of dogs, sky, and void. 70000 = 112 + 17 * 256 + 1 * 65536
IDS = np.array([[7, 7, 300, 300], [7, 0, 70000, 70000], [9, 9, 70000, 0]])
SEGMENTS = [
    {"id": 9, "category_id": 5, "iscrowd": 1, "area": 2, "bbox": [0, 2, 2, 1]},
    {"id": 7, "category_id": 5, "iscrowd": 0, "area": 3, "bbox": [0, 0, 2, 2]},
    {"id": 70000, "category_id": 187, "iscrowd": 0, "area": 3, "bbox": [2, 1, 2, 2]},
    {"id": 300, "category_id": 5, "iscrowd": 0, "area": 2, "bbox": [2, 0, 2, 1]},
]
CATEGORIES = [
    {"id": 187, "name": "sky", "isthing": 0, "color": [70, 130, 180]},
    {"id": 5, "name": "dog", "isthing": 1, "color": [1, 2, 3]},
    {"id": 1, "name": "wall", "isthing": 0},
    {"id": 200, "name": "cat", "isthing": 1},
]
Write = Callable[..., Path]


def save_segments(path: Path, ids: np.ndarray = IDS) -> None:
    save_image(path, np.stack([ids & 255, ids >> 8 & 255, ids >> 16], axis=2).astype(np.uint8))


def document(**changes: Any) -> dict[str, Any]:
    """One image, 4 wide and 3 high."""
    image = {"id": 42, "file_name": "a.jpg", "height": 3, "width": 4}
    annotation = {"image_id": 42, "file_name": "a.png", "segments_info": SEGMENTS}
    return {"images": [image], "annotations": [annotation], "categories": CATEGORIES} | changes


@pytest.fixture
def write(tmp_path):
    """Writes COCO's official layout and returns its root."""

    def write(content: Any = None, ids: np.ndarray = IDS, size: tuple[int, int] = (4, 3)) -> Path:
        save_segments(tmp_path / "annotations/panoptic_train2017/a.png", ids)
        content = document() if content is None else content
        (tmp_path / "annotations/panoptic_train2017.json").write_text(json.dumps(content))
        save_image(tmp_path / "train2017/a.jpg", Image.new("RGB", size, (200, 10, 10)))
        return tmp_path

    return write


def dataset(root: Path, **given: Any) -> CocoPanoptic:
    return opened(CocoPanoptic, "train", root=str(root), **given)


def test_panoptic_ids_number_the_segments_of_each_class_in_the_order_of_the_json(write):
    found = dataset(write())
    targets, classes = found[0]["targets"], found.classes
    assert (targets["panoptic"].dtype, targets["panoptic_crowds"]) == (torch.int32, [1000])
    assert targets["panoptic"].tolist() == [[1001, 1001, 1002, 1002], [1001, -1, 2000, 2000], [1000, 1000, 2000, -1]]
    assert [(c.name, c.file_id, c.thing) for c in classes["panoptic"]] == [
        ("wall", 1, False), ("dog", 5, True), ("sky", 187, False), ("cat", 200, True),
    ]  # fmt: skip
    assert [c.name for c in classes["detection"]] == ["dog", "cat"]
    assert classes["panoptic"][1].color == (1, 2, 3) and classes["segmentation"] == classes["panoptic"]
    assert targets["image_id"] == 42 and found.sizes().tolist() == [[3, 4]] and found.object_counts().tolist() == [3]
    assert found.provides == ("panoptic", "panoptic_crowds", "boxes", "labels")


def test_boxes_masks_and_label_map_follow_from_the_segments(write):
    targets = dataset(write(), masks=True, semantic=True)[0]["targets"]
    assert targets["boxes"].tolist() == [[0, 2, 2, 3], [0, 0, 2, 2], [2, 0, 4, 1]]
    found = [targets[key].tolist() for key in ("labels", "iscrowd", "area")]
    assert found == [[0, 0, 0], [True, False, False], [2, 3, 2]]
    assert np.array_equal(np.asarray(targets["masks"]), np.array([9, 7, 300])[:, None, None] == IDS)
    assert targets["semantic"].tolist() == [[1, 1, 1, 1], [1, 255, 2, 2], [1, 1, 2, 255]]
    assert targets["semantic"].dtype == torch.uint8


def test_cityscapes_images_are_found_by_their_ids(tmp_path):
    """As cityscapesScripts' createPanopticImgs.py writes it: no city in the json, ids of instances as segments."""
    name = "aachen_000000_000019"
    image = save_image(tmp_path / f"leftImg8bit/train/aachen/{name}_leftImg8bit.png", Image.new("RGB", (4, 3)))
    ids = np.array([[7, 7, 26001, 26001], [7, 0, 26000, 26000], [26, 26, 26, 0]])
    save_segments(tmp_path / f"gtFine/cityscapes_panoptic_train/{name}_gtFine_panoptic.png", ids)
    segments = [
        {"id": one, "category_id": 7 if one == 7 else 26, "iscrowd": int(one == 26)} for one in (7, 26, 26000, 26001)
    ]
    content = {
        "images": [{"id": name, "file_name": f"{name}_gtFine_leftImg8bit.png", "height": 3, "width": 4}],
        "annotations": [{"image_id": name, "file_name": f"{name}_gtFine_panoptic.png", "segments_info": segments}],
        "categories": [{"id": 7, "name": "road", "isthing": 0}, {"id": 26, "name": "car", "isthing": 1}],
    }
    (tmp_path / "gtFine/cityscapes_panoptic_train.json").write_text(json.dumps(content))
    found = dataset(tmp_path, preset="cityscapes")
    assert found.path(0) == str(image)
    targets = found[0]["targets"]
    assert targets["panoptic"].tolist() == [[0, 0, 1002, 1002], [0, -1, 1001, 1001], [1000, 1000, 1000, -1]]
    assert targets["panoptic_crowds"] == [1000] and targets["image_id"] == name
    image.rename(image.with_name("other_leftImg8bit.png"))
    with pytest.raises(DataError, match=f"1 images, of which 1 do not exist .*{name}"):
        dataset(tmp_path, preset="cityscapes")


def test_ade20k_may_list_stuff_that_things_hide(tmp_path, write):
    hidden = {"id": 11, "category_id": 1, "iscrowd": 0, "area": 12}
    annotation = {"image_id": 42, "file_name": "a.png", "segments_info": [hidden, *SEGMENTS]}
    root = write(document(annotations=[annotation]))
    with pytest.raises(DataError, match=r"a\.png has 0 pixels of 1 segment that .*: 11\."):
        dataset(root)
    (root / "images").mkdir()
    (root / "train2017").rename(root / "images/training")
    (root / "annotations/panoptic_train2017").rename(root / "ade20k_panoptic_train")
    (root / "annotations/panoptic_train2017.json").rename(root / "ade20k_panoptic_train.json")
    found = dataset(root, preset="ade20k")
    assert found.object_counts().tolist() == [4]
    assert found[0]["targets"]["panoptic"][0].tolist() == [1001, 1001, 1002, 1002]


def with_segments(*segments: dict[str, Any]) -> dict[str, Any]:
    return document(annotations=[document()["annotations"][0] | {"segments_info": list(segments)}])


BGR = (IDS & 255) << 16 | (IDS & 0xFF00) | IDS >> 16


@pytest.mark.parametrize(
    ("files", "options", "message"),
    [
        (
            (with_segments(*SEGMENTS[:3]), np.array([*IDS[:2], [9, 9, 70001, 12]])),
            {},
            r"panoptic_train2017/a\.png has 3 segment ids .*image 42, such as (12|300|70001)\.",
        ),
        ((None, IDS, (8, 6)), {}, r"a\.jpg has 8 x 6 pixels, but its panoptic map .*a\.png has 4 x 3"),
        (
            (with_segments(SEGMENTS[0] | {"category_id": 6}),),
            {},
            r"image 42: segment 9 .*category_id 6.* 1, 187, 200, 5",
        ),
        ((with_segments(SEGMENTS[0] | {"id": 0}),), {}, "image 42 has a segment of id 0"),
        ((document(categories=[{"id": 5, "name": "dog"}]),), {}, r"category 5 \(dog\) has isthing null"),
        ((document(annotations=[]),), {}, "image a.jpg has no annotations"),
        (
            (document(annotations=[{"image_id": 41, "file_name": "a.png"}]),),
            {},
            "image_id 41, and no image has that id",
        ),
        (
            (document(annotations=[{"image_id": 42, "file_name": "b.png", "segments_info": []}]),),
            {},
            r"panoptic_train2017/b\.png: there is no such label file",
        ),
        ((None, BGR), {}, r"With red and blue exchanged it does\. Fix: cv2\.imwrite takes BGR"),
        ((None, np.where(IDS == 300, 8, IDS)), {}, "Add each to its `segments_info`"),
        *(((), {name: "nowhere"}, rf"nowhere\. .*data\.{name}") for name in ("annotations", "segments", "images")),
    ],
)
def test_files_that_do_not_fit_are_named(files, options, message, write):
    with pytest.raises(DataError, match=message):
        dataset(write(*files), **options)


def test_the_json_of_a_split_is_found_by_its_options(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "val.json").touch()
    assert panoptic_json(tmp_path, "val", {"annotations": "a/{split}.json"}) == tmp_path / "a" / "val.json"
