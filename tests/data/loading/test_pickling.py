"""Loaders with spawned processes, to which data sets and transforms are pickled."""

from typing import Any

import pytest
import torch

from densevit.config import Config, from_mapping
from densevit.data.build import build_data


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
