"""The lines before a training about small objects and random weights, with sizes worked out by hand."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from densevit import config as configs
from densevit.interfaces import Dataset, Transforms
from densevit.training.run.start_hints import object_size, random_weights, start_hints


class Squares(Dataset):
    """Images of 1000 x 1000 pixels with one square object each."""

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


@pytest.mark.parametrize(
    ("given", "sides", "input_size", "size", "larger"),
    [
        # 70 px in files of 1000: 14 at 200, 31.4 at 448, 44.8 at 640
        ({}, (10, 70, 500), None, "14 px at data.image_size=200 (70 px", " data.image_size=640 enlarges it to 45 px."),
        # 20 px in files: 16 at 800, the largest size below 1000; 1024 would enlarge the files by 2.4 %
        ({}, (20,), None, "4 px at data.image_size=200 (20 px", " data.image_size=1024 enlarges it to 20 px."),
        ({"image_size": [200, 200]}, (70,), (200, 200), "14 px at data.image_size=[200,200] (70 px", ""),
        ({"transforms": "detr", "image_size": [240, 400]}, (40,), None, "", " data.image_size=800 enlarges it to 32"),
        ({"transforms": {"name": "crop", "short_side": 200}}, (40,), None, "", ""),
        ({"transforms": {"name": "tests.training.run.test_start_hints:Tenth"}}, (40,), None, "", ""),
    ],
)
def test_small_objects_are_reported_with_an_image_size_that_enlarges_them(given, sides, input_size, size, larger):
    section = configs.DataSection(**{"name": "coco", "root": "street", "image_size": 200, **given})
    start, _, end = object_size(section, Squares(*sides), input_size).partition(", which few models detect.")
    assert start.startswith(f"Median object: {size}")
    assert end.startswith(larger) and bool(end) == bool(larger)


def test_random_weights_are_reported_for_few_images() -> None:
    line = random_weights(configs.load("detr_swin", ["data=coco", "data.root=street"]), 205)
    assert line.startswith("Weights: random, with only 205 training images.")
    assert random_weights(configs.load("detr_swin"), 5000) == ""
    timm = "backbone={name: timm, model: a, pretrained: true}"
    for override in ("backbone.weights=mine.pth", "weights=runs/a", timm):
        assert random_weights(configs.load("detr_swin", [override]), 205) == ""


def test_lines_are_for_heads_on_data_of_files() -> None:
    data: Any = SimpleNamespace(train=Squares(10), val=Squares(10))
    assert start_hints(configs.load("detr_swin"), data, None) == []
    config = configs.load("detr_swin", ["data=coco", "data.root=street", "data.image_size=200"])
    assert [line.split(":")[0] for line in start_hints(config, data, None)] == ["Median object", "Weights"]
    assert start_hints(config.model_copy(update={"heads": {}}), data, None) == []
