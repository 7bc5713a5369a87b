"""Loaders with spawned processes, to which data sets and transforms are pickled."""

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from densevit.config import Config, DataSection, from_mapping
from densevit.data.build import build_data, build_transforms
from densevit.data.loading.batch_sampler import SampleKey
from densevit.data.loading.dataloader import TransformedDataset
from densevit.interfaces import Dataset
from densevit.targets import RunLengthMasks
from densevit_scenes.dataset import Scenes

TRANSFORMS: list[dict[str, Any]] = [
    {"transforms": "fixed", "image_size": 32},
    {"transforms": {"name": "crop", "scales": [0.5, 2.0], "rotation": 10}, "image_size": 32},
    {"transforms": "lsj", "image_size": 32},
]


def assert_same(one: Any, other: Any) -> None:
    """Recursive equality; tensors are bit-identical."""
    assert type(one) is type(other)
    if isinstance(one, torch.Tensor):
        assert torch.equal(one, other)
    elif isinstance(one, RunLengthMasks):
        assert torch.equal(one.to("cpu"), other.to("cpu"))
    elif isinstance(one, dict):
        assert one.keys() == other.keys()
        for key in one:
            assert_same(one[key], other[key])
    else:
        assert one == other


def assert_survives(dataset: Dataset, **section: Any) -> None:
    """Samples are the same after a round trip, in training and in evaluation."""
    pick = SampleKey(1, 7)
    for transform, train in zip(build_transforms(DataSection(name="scenes", **section)), (True, False), strict=True):
        prepared = TransformedDataset(dataset, transform, train)
        assert_same(pickle.loads(pickle.dumps(prepared))[pick], prepared[pick])


@pytest.mark.parametrize("section", TRANSFORMS, ids=lambda section: str(section["transforms"]))
def test_all_transforms_can_be_pickled(section: dict[str, Any]) -> None:
    assert_survives(Scenes("train", image_size=48, train_length=2), **section)


def _coco(root: Path) -> dict[str, Any]:
    images = [{"id": k, "file_name": f"{k}.png", "width": 40, "height": 30} for k in range(2)]
    outline = [[1, 2, 11, 2, 11, 12]]
    annotations = [
        {"id": k, "image_id": k, "category_id": 3, "bbox": [1, 2, 10, 10], "segmentation": outline} for k in range(2)
    ]
    content = {"images": images, "annotations": annotations, "categories": [{"id": 3, "name": "cell"}]}
    (root / "train.json").write_text(json.dumps(content))
    (root / "val.json").touch()  # so that train is not divided
    _images(root / "train")
    return {"name": "coco", "root": str(root), "masks": True}


def _masks(root: Path) -> dict[str, Any]:
    _images(root / "images" / "train")
    for folder in ("images", "labels"):
        (root / folder / "val").mkdir(parents=True)  # so that train is not divided
    _images(root / "labels" / "train", np.zeros((30, 40), np.uint8))
    return {"name": "label_maps", "root": str(root), "classes": ["floor"]}


def _depth(root: Path) -> dict[str, Any]:
    _images(root / "images" / "train")
    _images(root / "labels" / "train", np.full((30, 40), 2000, np.uint16))
    return {"name": "depth", "root": str(root), "scale": 0.001}


def _images(folder: Path, values: np.ndarray | None = None) -> None:
    folder.mkdir(parents=True)
    for k in range(2):
        Image.fromarray(np.zeros((30, 40, 3), np.uint8) if values is None else values).save(folder / f"{k}.png")


@pytest.mark.parametrize("section", [_coco, _masks, _depth], ids=lambda section: section.__name__)
def test_every_data_set_can_be_pickled(section: Any, tmp_path: Path) -> None:
    from densevit import registry

    options = section(tmp_path)
    dataset = registry.create("datasets", options.pop("name"), "train", options=options, where="data")
    assert_survives(dataset, transforms="resize", image_size=32)


def config(**data: Any) -> Config:
    heads = {"detection": {"name": "detr"}}
    return from_mapping({"backbone": {"name": "resnet"}, "heads": heads, "data": data, "trainer": {"max_epochs": 1}})


@pytest.mark.integration
def test_spawned_workers_give_the_same_batches() -> None:
    section = {"name": "scenes", "image_size": 48, "train_length": 4, "val_length": 2, "batch_size": 2}
    here, spawned = (
        build_data(config(transforms="resize", num_workers=workers, **section)).train_loader() for workers in (0, 1)
    )
    spawned.multiprocessing_context = "spawn"  # the default on Windows and macOS; on Linux our workers are forked
    for one, other in zip(list(here), list(spawned), strict=True):
        assert torch.equal(one["images"], other["images"])
