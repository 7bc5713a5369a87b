"""The lines before a training about small objects and random weights, with sizes worked out by hand."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from densevit import config as configs
from densevit.interfaces import Dataset, Transforms
from densevit.training.run.start_hints import object_size, random_weights, start_hints


class Squares(Dataset):
    """Three images of 1000 x 1000 pixels with one square object each."""

    def __init__(self, *sides: float) -> None:
        self.sides, self.classes = np.array(sides), {}

    def __len__(self) -> int:
        return len(self.sides)

    def sizes(self) -> np.ndarray:
        return np.full((len(self), 2), 1000)

    def all_objects(self) -> Any:
        boxes = np.stack([0 * self.sides, 0 * self.sides, self.sides, self.sides], axis=1)
        return np.arange(len(self)), {"boxes": boxes, "labels": np.zeros(len(self), int)}


class Tenth(Transforms):
    def __init__(self, image_size: Any) -> None:
        assert image_size == 200

    def evaluation_size(self, height: int, width: int) -> tuple[int, int]:
        return height // 10, width // 10


def section(**given: Any) -> configs.DataSection:
    return configs.DataSection(**{"name": "coco", "root": "street", "image_size": 200, **given})


def test_object_size_are_reported_with_an_image_size_that_enlarges_them():
    # 70 px in files of 1000: 14 at 200, 31.4 at 448, 44.8 at 640
    assert object_size(section(), Squares(10, 70, 500), None) == (
        "Median object: 14 px at data.image_size=200 (70 px in the files), which few models detect. "
        "data.image_size=640 enlarges it to 45 px."
    )


def test_the_suggested_size_does_not_exceed_the_files():
    # 20 px in files: 16 at 800, the largest size below 1000; 1024 would enlarge the files by 2.4 %
    line = object_size(section(), Squares(20), None)
    assert line.endswith("data.image_size=1024 enlarges it to 20 px.")
    assert object_size(section(image_size=None), Squares(9), None) == (
        "Median object: 9 px at the model's input (9 px in the files), which few models detect."
    )


def test_a_backbone_of_one_size_gets_no_suggestion():
    assert object_size(section(image_size=[200, 200]), Squares(70), (200, 200)) == (
        "Median object: 14 px at data.image_size=[200,200] (70 px in the files), which few models detect."
    )


@pytest.mark.parametrize(
    ("given", "larger"),
    [
        ({"transforms": "detr", "image_size": [240, 400]}, " data.image_size=800 enlarges it to 32 px."),
        ({"transforms": "lsj"}, " data.image_size=800 enlarges it to 32 px."),
        ({"transforms": {"name": "crop", "short_side": 200}}, ""),
        ({"transforms": {"name": "tests.training.run.test_start_hints:Tenth"}}, ""),
    ],
)
def test_a_larger_size_is_suggested_if_it_enlarges_objects(given: dict[str, Any], larger: str):
    line = object_size(section(**given), Squares(40), None)
    assert line.startswith("Median object: ") and line.partition(", which few models detect.")[2] == larger


def test_larger_objects_are_reported_without_a_suggestion():
    assert object_size(section(), Squares(80), None) == (
        "Median object: 16 px at data.image_size=200 (80 px in the files)."
    )


@pytest.mark.parametrize("dataset", [Squares(), Dataset()])
def test_unknown_objects_are_not_reported(dataset: Dataset):
    assert object_size(section(), dataset, None) == ""


def test_random_weights_are_reported_for_few_images():
    config = configs.load("detr_swin", ["data=coco", "data.root=street"])
    line = random_weights(config, 205)
    assert (
        line.startswith("Weights: random, with only 205 training images.") and " backbone=efficientnet_lite0 (" in line
    )
    assert random_weights(config, 5000) == ""
    for override in (
        "backbone.weights=mine.pth",
        "weights=runs/a",
        "backbone={name: timm, model: a, pretrained: true}",
    ):
        assert random_weights(configs.load("detr_swin", [override]), 205) == ""


def test_lines_are_for_heads_on_data_of_files():
    data: Any = SimpleNamespace(train=Squares(10), val=Squares(10))
    assert start_hints(configs.load("detr_swin"), data, None) == []
    config = configs.load("detr_swin", ["data=coco", "data.root=street", "data.image_size=200"])
    assert [line.split(":")[0] for line in start_hints(config, data, None)] == ["Median object", "Weights"]
    assert start_hints(config.model_copy(update={"heads": {}}), data, None) == []
