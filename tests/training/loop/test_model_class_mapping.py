"""Evaluation of models on data of other classes, against the metrics of hand-mapped predictions."""

from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest
import torch

from densevit.data.datasets.mapped_classes import MappedClasses
from densevit.errors import DataError
from densevit.interfaces import Class, Sample, as_classes
from densevit.targets.types import TargetTypes
from densevit.training.loop.model_class_mapping import ClassMapping, labelled_heads, map_classes
from tests.counted_dataset import CountedDataset
from tests.small_models import StandIn


def classes(*names: str) -> tuple[Class, ...]:
    return tuple(Class(name, 10 * n, (n, n, n), thing=name != "sky") for n, name in enumerate(names))


ANIMALS = classes("cat", "dog", "fox")
SCENE = classes("sky", "Dog", "cat", "cow")


class Scene(CountedDataset):
    classes: ClassVar = {"detection": SCENE[1:], "panoptic": SCENE}
    provides = ("boxes", "labels", "iscrowd", "semantic", "panoptic", "panoptic_crowds")

    def __getitem__(self, index: int) -> Sample:
        targets = {
            "image_id": 5,
            "boxes": torch.arange(16.0).view(4, 4),
            "labels": torch.tensor([0, 2, 1, 0]),
            "iscrowd": np.array([False, True, False, True]),
            "panoptic": torch.tensor([[0, 1000, 1001], [2000, 3000, -1]], dtype=torch.int32),
            "panoptic_crowds": [1001, 3000],
        }
        return {"image": torch.zeros(3, 2, 3, dtype=torch.uint8), "targets": targets}


class Panoptic(StandIn):
    task, required_targets = "panoptic", ("panoptic",)


def mapped(trained: tuple[Class, ...], given: Any = None) -> tuple[dict[str, ClassMapping], Any]:
    data = SimpleNamespace(val=Scene())
    data.use_classes = lambda kept: setattr(data, "val", MappedClasses(data.val, kept))
    model: Any = SimpleNamespace(heads={"a": Panoptic(trained)}, classes={"a": trained})
    return map_classes(model, data, given), data.val


def test_targets_of_all_tasks_follow_the_mapping():
    """Of sky, Dog, cat and cow, the model knows Dog and cat; the things of the objects are a part of these classes."""
    assert mapped(SCENE)[0] == {}  # equal classes are not mapped
    mappings, data = mapped(ANIMALS)
    assert [c.name for c in data.classes["panoptic"]] == [c.name for c in data.classes["detection"]] == ["Dog", "cat"]
    assert mappings["a"].classes == SCENE[1:3] and mappings["a"].pairs == [("cat", "cat"), ("dog", "Dog")]
    assert mappings["a"].only_model == ["fox"] and mappings["a"].only_data == ["sky", "cow"]
    targets = data[0]["targets"]
    assert targets["boxes"].tolist() == torch.arange(16.0).view(4, 4)[[0, 2, 3]].tolist()
    assert targets["labels"].tolist() == [0, 1, 0] and targets["iscrowd"].tolist() == [False, False, True]
    assert targets["panoptic"].tolist() == [[-1, 0, 1], [1000, -1, -1]] and targets["panoptic_crowds"] == [1]
    assert targets["panoptic"].dtype == torch.int32 and targets["labels"].dtype == torch.int64


def test_predictions_follow_the_mapping():
    mappings, _ = mapped(ANIMALS, {"fox": "cat"})
    found = {
        "panoptic": torch.tensor([[0, 1000, 2000, -1, 2001]], dtype=torch.int32),
        "semantic": torch.tensor([[0, 1, 2]], dtype=torch.uint8),
        "masks": torch.ones(3, 1, 5, dtype=torch.bool),
        "labels": torch.tensor([2, 1, 0]),
        "scores": torch.tensor([0.9, 0.8, 0.7]),
    }
    result = mappings["a"].applied(found, TargetTypes())
    # The two cats' number 0 collides: the second one takes the next that is free.
    assert result["panoptic"].tolist() == [[1000, 0, 1001, -1, 1002]]
    assert result["semantic"].tolist() == [[1, 0, 1]] and result["labels"].tolist() == [1, 0, 1]
    mappings, _ = mapped(ANIMALS, {"cat": None})
    result = mappings["a"].applied(found, TargetTypes())
    assert result["panoptic"].tolist() == [[-1, 0, -1, -1, -1]] and result["semantic"].tolist() == [[255, 0, 255]]
    assert result["scores"].tolist() == pytest.approx([0.8]) and result["masks"].shape == (1, 1, 5)


def test_classes_without_names_are_the_data_s_by_position():
    """If the data has as many; of classes that the data numbers too, names count."""
    numbers = as_classes(4)
    model: Any = SimpleNamespace(heads={"a": Panoptic(numbers)})
    assert labelled_heads(model, Scene(), {}) == ["a"]
    with pytest.warns(UserWarning, match=r"heads\.a: .* by position: 0 is sky, 1 is Dog, 2 is cat, 3 is cow\."):
        mappings, data = mapped(numbers)
    assert mappings["a"].indices == (0, 1, 2, 3) and data.classes == Scene.classes
    result = mappings["a"].applied({"labels": torch.tensor([3, 0]), "scores": torch.ones(2)}, TargetTypes())
    assert result["labels"].tolist() == [3, 0]
    assert mapped(numbers, {"3": "Dog"})[0]["a"].pairs == [("3", "Dog")]
    with pytest.raises(DataError, match=r"no name in common.*Classes of the data: sky, .*: 0, 1\. Fix: .*classes=\{"):
        mapped(numbers[:2])
    numbered: Any = SimpleNamespace(val=SimpleNamespace(classes={"panoptic": numbers[::-1]}), use_classes=dict)
    model.classes = {"a": numbers}
    assert map_classes(model, numbered)["a"].indices == (3, 2, 1, 0)


class Depth(StandIn):
    task, required_targets = "depth", ("depth",)


class Maps(StandIn):
    task, required_targets = "segmentation", ("semantic",)


def test_heads_without_labels_in_the_data_are_left_out():
    """Depth has no classes; of two detectors, the data has the classes of one, after the mapping."""
    heads = {"cars": StandIn(classes("car", "truck")), "people": StandIn(classes("person")), "distance": Depth()}
    model: Any = SimpleNamespace(heads={**heads, "surfaces": Maps(classes("road", "sky"))})
    boxes, maps = ("boxes", "labels"), ("depth", "semantic")
    for provides, known, mapping, found in (
        (boxes, {"detection": ("Person", "bicycle")}, {}, ["people"]),
        (boxes, {"detection": ("Person", "bicycle")}, {"car": "bicycle", "person": None}, ["cars"]),
        (("depth",), {}, {}, ["distance"]),
        (maps, {"segmentation": ("sky", "tree")}, {}, ["distance", "surfaces"]),
        (("image_class",), {"classification": ("person",)}, {}, []),
    ):
        data: Any = SimpleNamespace(provides=provides, classes={task: classes(*known[task]) for task in known})
        assert labelled_heads(model, data, mapping) == found
