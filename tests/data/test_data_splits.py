"""densevit/data/data_splits.py: the splits of a config, their classes, batches and evaluation."""

import json
from typing import Any

import numpy as np
import pytest
import torch

from densevit import config as configs
from densevit.config import Config, from_mapping
from densevit.data.data_builder import build_data
from densevit.data.data_splits import DataSplits
from densevit.data.datasets.mix import Mix
from densevit.errors import DataError
from densevit.interfaces import Class, Sample
from tests.counted_dataset import CountedDataset
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


def test_a_copy_pads_to_another_size_and_shares_the_splits(folder):
    data = build_data(config(name="coco", root=str(folder), image_size=64), size_divisor=16)
    train, padded = data.train, data.padded_to(32)
    assert (padded.size_divisor, data.size_divisor) == (32, 16) and padded.train is train


def test_images_are_padded_to_the_size_of_a_model_and_batched_whatever_their_aspect(folder):
    data = build_data(config(name="coco", root=str(folder), image_size=64, batch_size=5), size_divisor=(80, 96))
    batches = [*data.train_loader(), *data.val_loader()]
    assert [batch["images"].shape for batch in batches] == [(5, 3, 80, 96)] * (4 + 2)


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
        data.sort_classes()


def test_the_evaluated_split_may_have_any_name(folder):
    (folder / "val.json").rename(folder / "minitest.json")
    (folder / "val").rename(folder / "minitest")
    data = build_data(config(name="coco", root=str(folder), val_split="minitest"))
    data.check_splits()
    assert (len(data.train), len(data.val)) == (16, 10), "a fifth of train is for val, which is not read"


NAMES = ("ant", "bee", "cat")

OF_TASK = {"detection": ("boxes", "labels"), "segmentation": ("semantic",)}

OTHER_ORDER = (2, 0, 1)  # of the classes in another split


class Ordered(CountedDataset):
    """Images whose labels do not depend on the order of the classes. order: of the classes of all splits but train."""

    length = 4

    def __init__(
        self,
        split: str,
        task: str = "detection",
        order: tuple[int, ...] = OTHER_ORDER,
        everywhere: bool = False,
        sizes: list[list[int]] | None = None,
    ) -> None:
        self.task, self.provides, self.image_sizes = task, OF_TASK[task], sizes
        known = [Class(name, 10 + i, (i, i, i)) for i, name in enumerate(NAMES)]
        self.classes = {task: tuple(known[i] for i in order) if everywhere or split != "train" else tuple(known)}

    def sizes(self) -> Any:
        return self.image_sizes

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


@pytest.mark.parametrize("sizes", [[[32, 32]] * 3, [[32, 32, 3]] * 4])
def test_each_image_has_a_size(sizes):
    """An image without one would not be evaluated."""
    section = {"name": f"{__name__}:Ordered", "sizes": sizes}
    for use in data_of("detection", sizes=sizes).val_loader, Mix("val", {"a": section}).sizes:
        with pytest.raises(DataError, match=r"Ordered: sizes\(\) has the shape .*Fix: return \(4, 2\)"):
            use()


@pytest.mark.parametrize("task", OF_TASK)
def test_a_check_changes_nothing(task):
    data = data_of(task, num_workers=0)
    val, classes = data.val, dict(data.val.classes)
    data.check_splits()
    assert data.val is val and data.val.classes == classes != data.train.classes


@pytest.mark.parametrize(
    ("options", "image_size", "sizes"),
    [
        ({}, 32, []),  # of all images, which have 32 x 32 pixels
        ({"sizes": [[32, 32], [24, 32], [32, 64], [32, 32]]}, None, [(24, 32), (32, 64)]),
        ({"transforms": "detr"}, None, []),
        ({"image_size": 48}, 48, []),
    ],
)
def test_the_only_size_of_images_that_keep_it_is_known(options, image_size, sizes):
    """And the smallest and the largest of several, unless images are resized."""
    data = data_of("detection", num_workers=0, **{"image_size": None, **options})
    data.check_splits()
    assert (data.section.image_size, data.record.sizes) == (image_size, sizes)
    assert data.record.image_size == (None if "image_size" in options else image_size)


def test_mixed_data_sets_have_one_order():
    section = {"name": f"{__name__}:Ordered"}
    assert [c.name for c in Mix("val", {"a": section, "b": section}).classes["detection"]] == ["cat", "ant", "bee"]
    with pytest.raises(DataError, match="with different classes: ant, bee, cat and cat, ant, bee"):
        Mix("train", {"a": section, "b": {**section, "everywhere": True}})
