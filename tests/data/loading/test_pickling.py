"""Loaders with spawned processes, to which data sets and transforms are pickled."""

import pickle
from typing import Any

import pytest
import torch

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
def test_all_transforms_can_be_pickled(section):
    assert_survives(Scenes("train", image_size=48, train_length=2), **section)


def config(**data: Any) -> Config:
    heads = {"detection": {"name": "detr"}}
    return from_mapping({"backbone": {"name": "resnet"}, "heads": heads, "data": data, "trainer": {"max_epochs": 1}})


@pytest.mark.integration
def test_spawned_workers_give_the_same_batches():
    section = {"name": "scenes", "image_size": 48, "train_length": 4, "val_length": 2, "batch_size": 2}
    here, spawned = (
        build_data(config(transforms="resize", num_workers=workers, **section)).train_loader() for workers in (0, 1)
    )
    spawned.multiprocessing_context = "spawn"  # the default on Windows and macOS; on Linux our workers are forked
    for one, other in zip(list(here), list(spawned), strict=True):
        assert torch.equal(one["images"], other["images"])
