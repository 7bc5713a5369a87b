"""densevit/data/datasets/coco_annotations.py: crowds, and photos whose EXIF orientation leaves their size open."""

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as rle

from densevit.data.datasets.coco_dataset import Coco
from densevit.errors import DataError, warn_once
from tests.data.coco_folder import noise, write_split
from tests.data.datasets.conftest import checked, coco_document
from tests.recorded_warnings import recorded_warnings

_T = Image.Transpose
_STORED = {  # the inverse of what ImageOps.exif_transpose does
    **{1: None, 3: _T.ROTATE_180, 5: _T.TRANSPOSE, 6: _T.ROTATE_90, 8: _T.ROTATE_270}
}
_BOTH, _UPRIGHT, _WIDE = (4, 6, 20, 10), (4, 30, 20, 25), (30, 6, 25, 20)  # boxes that fit both, 40 x 60, or 60 x 40


def write_photos(
    root: Path,
    boxes: list[tuple[int, int, int, int]],
    grid: str = "upright",
    size: str | None = "stored",
    split: str = "train",
    orientation: int = 6,
    shape: tuple[int, int] = (40, 60),
    segmentation: str = "",
) -> Path:
    """Photos of a red object on its box, which is on the upright image of this shape, or on the stored pixels.

    size: which size the json has. segmentation: "polygon", "rle", or "".
    """
    images, annotations = [], []
    stored_shape = shape[::-1] if orientation >= 5 else shape
    exif = Image.Exif()
    exif[0x0112] = orientation
    (root / split).mkdir(parents=True, exist_ok=True)
    for i, (x, y, w, h) in enumerate(boxes):
        width, height = shape if grid == "upright" else stored_shape
        pixels = np.random.default_rng(i).integers(90, 130, (height, width, 3), dtype=np.uint8)
        pixels[y : y + h, x : x + w] = (220, 40, 40)
        image = Image.fromarray(pixels)
        if grid == "upright" and _STORED[orientation] is not None:
            image = image.transpose(_STORED[orientation])
        assert image.size == stored_shape
        image.save(root / split / f"{i}.png", exif=exif)
        mask = np.zeros((height, width), np.uint8, order="F")
        mask[y : y + h, x : x + w] = 1
        code = rle.encode(mask)
        kinds: dict[str, Any] = {
            "polygon": [[x, y, x + w, y, x + w, y + h, x, y + h]],
            "rle": {"size": code["size"], "counts": code["counts"].decode()},
            "": [],
        }
        sides = {"stored": stored_shape, "upright": shape, None: None}[size]
        known = {} if sides is None else {"width": sides[0], "height": sides[1]}
        images.append({"id": i, "file_name": f"{i}.png", **known})
        annotation = {"id": i, "image_id": i, "category_id": 1, "bbox": [x, y, w, h], "area": w * h}
        annotations.append(annotation | {"segmentation": kinds[segmentation]})
    content = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "bag"}]}
    (root / f"{split}.json").write_text(json.dumps(content))
    (root / "val.json").touch()  # so that train is not divided
    return root


def assert_on_objects(dataset: Coco) -> None:
    """The red pixels of each image are those of its box, and of its mask if it has one."""
    for index in range(len(dataset)):
        sample = dataset[index]
        pixels, targets = sample["image"], sample["targets"]
        assert list(pixels.shape[1:]) == dataset.sizes()[index].tolist()
        red = (pixels[0] > 200) & (pixels[1] < 60)
        x0, y0, x1, y1 = targets["boxes"][0].int().tolist()
        assert red[y0:y1, x0:x1].all() and red.sum() == (y1 - y0) * (x1 - x0) == targets["area"][0]
        if "masks" in targets:
            assert np.array_equal(np.asarray(targets["masks"].to("cpu"))[0], red.numpy())


@pytest.mark.parametrize(
    ("shape", "orientation", "grid", "segmentation"),
    [
        ((40, 60), 1, "upright", "polygon"),
        ((40, 60), 3, "stored", "rle"),
        ((60, 60), 5, "upright", "rle"),
        ((40, 60), 6, "stored", "polygon"),
    ],
)
def test_the_chosen_grid_has_the_boxes_on_their_objects(tmp_path, shape, orientation, grid, segmentation):
    """Square images and orientation 3, whose size does not tell, are read as the others."""
    root = write_photos(tmp_path, [_BOTH], grid, orientation=orientation, shape=shape, segmentation=segmentation)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert_on_objects(Coco("train", str(root), boxes=grid, masks=True))


def test_the_stored_size_is_read_as_the_stored_pixels_with_a_warning(tmp_path, cached_scans):
    root = write_photos(tmp_path / "set", [_BOTH, _WIDE], "stored", segmentation="polygon")
    for _ in range(2):  # the second time from the cache
        warn_once.cache_clear()
        with pytest.warns(
            UserWarning, match=r"2 of 2 images .*first: .*0\.png.*data\.boxes=upright.*data\.boxes=stored"
        ):
            dataset = checked(Coco, "train", str(root), masks=True)
        assert_on_objects(dataset)


@pytest.mark.parametrize(
    ("boxes", "size", "other"), [([_BOTH, _UPRIGHT], "stored", "upright"), ([_WIDE], None, "stored")]
)
def test_a_box_that_fits_only_the_other_grid_is_an_error(tmp_path, boxes, size, other):
    root = write_photos(tmp_path, boxes, size=size)
    message = rf"annotation {len(boxes) - 1} fits only the {other} pixels of .*png.*data\.boxes={other}"
    with pytest.raises(DataError, match=message):
        checked(Coco, "train", str(root))
    for grid in ("upright", "stored"):
        assert len(checked(Coco, "train", str(root), boxes=grid)) == len(boxes)


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
    with recorded_warnings() as messages:
        default = Coco("train", root)
    assert len(messages) == said and default.object_counts().sum() == objects
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ignored, used = (Coco("train", root, crowds=kind) for kind in ("ignore", "objects"))
    assert ignored.object_counts().sum() == objects and used.object_counts().sum() == len(crowds)
    assert ignored[0]["targets"]["iscrowd"].tolist() == [bool(crowds[0])]
    assert used[0]["targets"]["iscrowd"].tolist() == [False]
    if not objects:
        with pytest.raises(DataError, match=r"no object, except crowds.*data\.crowds=objects"):
            default.check_labels()


def test_lvis_fields_are_the_classes_that_are_labelled_in_an_image(write_coco, cached_scans):
    """An image with an object of "train" and one of "toothbrush", of which there are others; one without the fields."""
    fields = {"neg_category_ids": [1000], "not_exhaustive_category_ids": [90]}
    images = coco_document()["images"]
    root = str(write_coco(coco_document(images=[images[0] | {"neg_category_ids": []}, images[1] | fields, images[2]])))
    for _ in range(2):  # the second time from the cache
        dataset = Coco("train", root)
        assert dataset.provides == ("boxes", "labels", "labelled")
        names = [dataset[index]["targets"]["labelled"] for index in range(3)]
        assert names == [["train"], ["train", "unused"], ["train", "toothbrush", "unused"]]
    assert Coco("train", root, limit=1)[0]["targets"]["labelled"] == ["train"]
    root = str(write_coco(coco_document(images=[images[0] | {"neg_category_ids": [8]}, *images[1:]]), root="wrong"))
    with pytest.raises(DataError, match=r"image 0.jpg: neg_category_ids or not_exhaustive_category_ids is .*8.*Fix: "):
        Coco("train", root)
