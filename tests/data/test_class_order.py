"""Splits and data sets whose classes have different orders: labels are compared by the names of their classes."""

from typing import Any

import numpy as np
import pytest
import torch

from densevit import config as configs
from densevit.data.data_builder import build_data
from densevit.data.data_splits import DataSplits
from densevit.data.datasets.mix import Mix
from densevit.errors import DataError
from densevit.interfaces import Class, Dataset, Sample

NAMES = ("ant", "bee", "cat")
OF_TASK = {"detection": ("boxes", "labels"), "segmentation": ("semantic",)}
OTHER_ORDER = (2, 0, 1)  # of the classes in another split


class Ordered(Dataset):
    """Images whose labels do not depend on the order of the classes. order: of the classes of all splits but train."""

    def __init__(
        self, split: str, task: str = "detection", order: tuple[int, ...] = OTHER_ORDER, everywhere: bool = False
    ) -> None:
        self.task, self.provides = task, OF_TASK[task]
        known = [Class(name, 10 + i, (i, i, i)) for i, name in enumerate(NAMES)]
        self.classes = {task: tuple(known[i] for i in order) if everywhere or split != "train" else tuple(known)}

    def __len__(self) -> int:
        return 4

    def names(self, index: int) -> list[str]:
        """The names of the classes of an image's objects."""
        return [NAMES[i] for i in np.random.default_rng(index).integers(3, size=4)]

    def __getitem__(self, index: int) -> Sample:
        place = {one.name: i for i, one in enumerate(self.classes[self.task])}
        labels = torch.tensor([place[name] for name in self.names(index)])
        values = {"boxes": torch.tensor([[0.0, 0, 8, 8]] * 4), "labels": labels}
        values["semantic"] = labels.to(torch.uint8).repeat_interleave(8).repeat(32, 1)
        targets = {"image_id": index} | {key: values[key] for key in self.provides}
        return {"image": torch.full((3, 32, 32), index, dtype=torch.uint8), "targets": targets}


def data_of(task: str, **options: Any) -> DataSplits:
    section = {"name": f"{__name__}:Ordered", "task": task, "image_size": 32, "batch_size": 2, **options}
    backbone = {"name": "resnet", "depth": 18}
    return build_data(
        configs.from_mapping({"backbone": backbone, "heads": {}, "data": section, "trainer": {"max_steps": 1}})
    )


@pytest.mark.parametrize("task", OF_TASK)
def test_validation_has_the_classes_of_training_in_their_order(task):
    data = data_of(task, num_workers=0)
    raw = Ordered("val", task)
    data.sort_classes()
    assert [one.name for one in data.val.classes[task]] == [one.name for one in data.train.classes[task]] == [*NAMES]
    truths = [target["truth"] for batch in data.val_loader() for target in batch["targets"]]
    for index, truth in enumerate(truths):
        labels = truth["labels"] if task == "detection" else truth["semantic"][0, ::8]
        assert [NAMES[int(i)] for i in labels] == raw.names(index)


def test_mixed_data_sets_have_one_order():
    section = {"name": f"{__name__}:Ordered"}
    assert [c.name for c in Mix("val", {"a": section, "b": section}).classes["detection"]] == ["cat", "ant", "bee"]
    with pytest.raises(DataError, match="with different classes: ant, bee, cat and cat, ant, bee"):
        Mix("train", {"a": section, "b": {**section, "everywhere": True}})


@pytest.mark.parametrize("task", OF_TASK)
def test_a_check_changes_nothing(task):
    data = data_of(task, num_workers=0)
    val, classes = data.val, dict(data.val.classes)
    data.check_splits()
    assert data.val is val and data.val.classes == classes != data.train.classes
