"""The data of a run that adds classes to those of its weights."""

from pathlib import Path
from typing import Any

import pytest
import torch

import densevit
from densevit import config as configs
from densevit.errors import ConfigError
from densevit.training.run.training_data import checked_data
from tests.data.coco_folder import noise, write_split

HEADS = {"detection": {"name": "one_stage"}}


def config(root: Path, **keys: Any) -> configs.Config:
    """Of two images: a bird and a cat, in this order of classes."""
    for split, seed in (("train", 0), ("val", 2)):
        boxes = [{"image_id": 0, "category_id": n, "bbox": [4, 4, 9, 9], "id": n + 1} for n in (0, 1)]
        categories = [{"id": 0, "name": "bird"}, {"id": 1, "name": "cat"}]
        write_split(root, split, [noise(seed + n, 32, 32) for n in range(2)], boxes, categories)
    data = {"name": "coco", "root": str(root), "labelled_classes": "new"}
    values = {"backbone": {"name": "resnet", "depth": 18}, "heads": HEADS, "data": data, "trainer": {"max_steps": 1}}
    return configs.from_mapping({**values, **keys}, "test")


def weights(path: Path, *names: str) -> dict[str, str]:
    densevit.save(densevit.create_model({"name": "resnet", "depth": 18}, HEADS, {"detection": [*names]}), path)
    return {"weights": str(path)}


def test_old_classes_come_first_and_new_ones_are_labelled(tmp_path: Path):
    data = checked_data(config(tmp_path, **weights(tmp_path / "old.safetensors", "cat", "dog")))
    for dataset in (data.train, data.val):
        assert [(c.name, c.file_id) for c in dataset.classes["detection"]] == [("cat", 0), ("dog", 1), ("bird", 2)]
        targets = dataset[0]["targets"]
        assert targets["labels"].tolist() == [2] and targets["labelled"] == ["bird"] and len(targets["boxes"]) == 1
        assert dataset.image_name(0) == "0.png" and dataset.sizes().tolist() == [[32, 32]] * 2


def test_invalid_weights_are_named(tmp_path: Path):
    with pytest.raises(ConfigError, match=r"but weights is None. Fix: weights=RUN"):
        checked_data(config(tmp_path))
    with pytest.raises(ConfigError, match=r"no class that weights=.*old.safetensors lack. Fix: list"):
        checked_data(config(tmp_path, **weights(tmp_path / "old.safetensors", "bird", "cat")))
    torch.save({"x": torch.zeros(1)}, tmp_path / "other.pth")
    with pytest.raises(ConfigError, match=r"weights is .*other.pth. Fix: weights=RUN"):
        checked_data(config(tmp_path, weights=str(tmp_path / "other.pth")))
