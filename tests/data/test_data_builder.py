"""Building loaders from a config's data section."""

import json
from typing import Any

import numpy as np
import pytest
import torch

from densevit.config import Config, from_mapping
from densevit.data.data_builder import build_data
from densevit.errors import DataError
from tests.data.coco_folder import noise, write_split


def config(**data: Any) -> Config:
    heads = {"detection": {"name": "detr"}}
    return from_mapping({"backbone": {"name": "resnet"}, "heads": heads, "data": data, "trainer": {"max_epochs": 1}})


@pytest.fixture
def folder(tmp_path):
    """20 training and 10 validation images, landscape and portrait, of random sizes."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 20), ("val", 10)):
        sizes = [rng.permutation([rng.integers(30, 50), rng.integers(80, 99)]) for _ in range(count)]
        objects = [{"image_id": k, "category_id": 1, "bbox": [1, 2, 10, 10]} for k in range(count)]
        write_split(tmp_path, split, [noise(0, *size) for size in sizes], objects)
    return tmp_path


def test_images_are_batched_and_validation_uses_each_once_at_its_own_size(folder):
    data = build_data(config(name="coco", root=str(folder), image_size=64, batch_size=4), size_divisor=16)
    assert [c.name for c in data.classes["detection"]] == ["leaf"] and data.provides == ("boxes", "labels")
    trained = list(data.train_loader())
    assert len(trained) == len(data.train_loader()) == 5
    for batch in trained:
        assert batch["images"].dtype == torch.uint8 and batch["images"].shape[0] == 4
        assert all(side % 16 == 0 for side in batch["images"].shape[2:])
        assert all("truth" not in targets for targets in batch["targets"])
    batches = [batch for rank in range(2) for batch in data.val_loader(rank, 2)]
    assert sorted(t["image_id"] for batch in batches for t in batch["targets"]) == list(range(10))
    for batch in batches:
        for targets in batch["targets"]:
            own = [-(-side // 16) * 16 for side in targets["size"]]
            assert list(batch["images"].shape[2:]) == own, "padded for a neighbour"
            assert targets["truth"]["boxes"].tolist() == [[1, 2, 11, 12]]


def test_batches_are_grouped_by_aspect_on_request(folder):
    def padding(**keys: Any) -> float:
        data = build_data(config(name="coco", root=str(folder), image_size=64, batch_size=4, **keys), size_divisor=1)
        return float(np.mean([batch["padding_mask"].float().mean() for batch in data.train_loader()]))

    assert padding(group_by_aspect=True) < 0.6 * padding()


@pytest.mark.parametrize("batch_size", [20, 21])
@pytest.mark.parametrize("kept", [1, 2, 3])
def test_absent_classes_and_a_batch_larger_than_the_split_are_reported(kept, batch_size, folder, recwarn):
    names = ["cell", "nucleus", "platelet"]
    for split in ("train", "val"):
        content = json.loads((folder / f"{split}.json").read_text())
        content["categories"] = [{"id": i + 3, "name": name} for i, name in enumerate(names)]
        for number, annotation in enumerate(content["annotations"]):
            annotation["category_id"] = 3 + number % kept
        (folder / f"{split}.json").write_text(json.dumps(content))
    build_data(config(name="coco", root=str(folder), batch_size=batch_size)).check_splits()
    said = [str(warning.message) for warning in recwarn]
    absent = [text for text in said if text.startswith("No training image has")]
    assert [f"{len(names) - kept} of the {len(names)} classes" in text for text in absent] == [True] * (kept < 3)
    assert all(text.partition("learn: ")[2].startswith(", ".join(names[kept:]) + ".") for text in absent)
    assert any("batch_size is 21, more than the 20 training images" in text for text in said) == (batch_size == 21)


def test_splits_must_have_the_same_classes(folder):
    content = json.loads((folder / "val.json").read_text())
    content["categories"].append({"id": 4, "name": "platelet"})
    (folder / "val.json").write_text(json.dumps(content))
    with pytest.raises(DataError, match=r"train and val have different classes.*only in val: 'platelet' \(id 4\)"):
        build_data(config(name="coco", root=str(folder))).sort_classes()


def test_splits_are_built_lazily(folder):
    (folder / "train.json").unlink()
    data = build_data(config(name="coco", root=str(folder), image_size=64, batch_size=4))
    assert sum(len(batch["targets"]) for batch in data.val_loader()) == 10
    with pytest.raises(DataError, match="no annotations for the split 'train'"):
        data.check_splits()


def test_the_evaluated_split_may_have_any_name(folder):
    (folder / "val.json").rename(folder / "minitest.json")
    (folder / "val").rename(folder / "minitest")
    data = build_data(config(name="coco", root=str(folder), val_split="minitest"))
    data.check_splits()
    assert (len(data.train), len(data.val)) == (16, 10), "a fifth of train is for val, which is not read"
