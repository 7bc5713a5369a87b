"""`densevit scenes` writes the data set in formats that other libraries read."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from pycocotools.coco import COCO

from densevit.cli import main
from densevit_scenes.dataset import Scenes


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("scenes") / "new"
    assert main(["scenes", "--out", str(out), "--count", "6", "--size", "64x96", "--seed", "5"]) == 0
    return out


def test_pycocotools_reads_the_annotations(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    dataset = Scenes("train", image_size=(64, 96), seed=5, train_length=6, val_length=6)
    coco = COCO(folder / "annotations" / "train.json")
    names = [one["name"] for one in coco.loadCats([*range(1, 9)])]
    assert names == [one.name for one in dataset.classes["detection"]]
    assert coco.getImgIds() == [1, 2, 3, 4, 5, 6]
    for index in range(6):
        targets = dataset[index]["targets"]
        record = coco.loadImgs(index + 1)[0]
        assert (record["height"], record["width"]) == (64, 96)
        annotations = coco.loadAnns(coco.getAnnIds(index + 1))
        assert [one["category_id"] - 1 for one in annotations] == targets["labels"].tolist()
        for one, box, mask in zip(annotations, targets["boxes"], targets["masks"], strict=True):
            x, y, width, height = one["bbox"]
            assert [x, y, x + width, y + height] == box.tolist()
            assert np.array_equal(coco.annToMask(one), mask)
            assert (one["area"], one["iscrowd"]) == (mask.sum(), 0)


def test_pngs_have_every_pixel(folder: Path) -> None:
    dataset = Scenes("val", image_size=(64, 96), seed=5, train_length=6, val_length=6)
    for index in range(6):
        sample, name = dataset[index], f"{index + 1:06}.png"
        targets = sample["targets"]
        image = cv2.imread(str(folder / "val" / "images" / name))[:, :, ::-1]
        semantic = cv2.imread(str(folder / "val" / "semantic" / name), cv2.IMREAD_UNCHANGED)
        depth = cv2.imread(str(folder / "val" / "depth" / name), cv2.IMREAD_UNCHANGED)
        assert np.array_equal(image.transpose(2, 0, 1), sample["image"].numpy())
        assert np.array_equal(semantic, targets["semantic"].numpy())
        assert (semantic.dtype, depth.dtype) == (np.uint8, np.uint16)
        np.testing.assert_allclose(depth / 1000, targets["depth"].numpy(), atol=0.00051)
    names = [one["name"] for one in json.loads((folder / "classes.json").read_text())]
    assert names == [one.name for one in dataset.classes["segmentation"]]
