"""densevit/training/run/config_checks.py: heads, data and monitor, checked before the run folder is created."""

import warnings
from pathlib import Path
from typing import Any

import pytest

import densevit
from densevit import config as configs
from densevit.data.data_builder import build_data
from densevit.errors import ConfigError, DataError
from densevit.interfaces import Class, Dataset
from densevit.training.loop.data_checks import check_classes
from densevit.training.run.config_checks import check_model, check_monitor
from densevit_heads.setr import Setr
from densevit_scenes.dataset import Scenes
from tests.built_models import build_model

CONFIG: dict[str, Any] = {
    "backbone": {"name": "swin", "variant": "nano", "window_size": 4},
    "heads": {"all": {"name": f"{__name__}:Panoptic", "decoder": "mla", "width": 16, "branch_width": 8}},
    "data": {"name": "scenes", "image_size": 32, "train_length": 2, "val_length": 2},
    "trainer": {"max_steps": 1},
}


class Panoptic(Setr):
    """Its classes are the things of detection, then the stuff of segmentation; it refuses tiny data sets."""

    def __init__(self, channels: Any, strides: Any, classes: Any, decoder: str, width: int, branch_width: int) -> None:
        super().__init__(channels, strides, classes, decoder=decoder, width=width, branch_width=branch_width)

    @classmethod
    def classes_from(cls, dataset: Dataset) -> tuple[Class, ...]:
        return (*dataset.classes["detection"], *(c for c in dataset.classes["segmentation"] if not c.thing))

    def check(self, dataset: Dataset) -> None:
        if len(dataset) < 2:
            raise ConfigError("needs 2 images. Fix: set data.train_length=2.")
        if len(dataset) < 3:
            warnings.warn("2 images are few.", stacklevel=2)


def test_a_head_chooses_its_classes_and_checks_the_data() -> None:
    config = configs.from_mapping(CONFIG)
    data = build_data(config)
    model = build_model(config, data.train)
    segmentation = data.train.classes["segmentation"]
    expected = [c.name for c in segmentation if c.thing] + [c.name for c in segmentation if not c.thing]
    assert [c.name for c in model.classes["all"]] == expected
    name = rf"heads\.all \({__name__}:Panoptic\)"
    with pytest.warns(UserWarning, match="^2 images are few"):
        check_model(config, data, model)
    check_classes(data.val, model)
    model.classes["all"] = model.classes["all"][::-1]
    with pytest.raises(DataError, match="classes for segmentation differ from the classes of head 'all'"):
        check_classes(data.val, model)
    small = build_data(configs.from_mapping(CONFIG, overrides=["data.train_length=1"]))
    with pytest.raises(ConfigError, match=f"^{name} needs 2 images. Fix: .* The data set is 'scenes'."):
        check_model(config, small, model)


class Stereo(Scenes):
    """Uncalibrated disparity, if it is not metric."""

    def __init__(self, split: str, metric: bool = True) -> None:
        super().__init__(split, train_length=2, val_length=2, image_size=32)
        self.metric = metric


STEREO = {"name": f"{__name__}:Stereo", "metric": False}
SETS = {"scenes": {"name": "scenes", "image_size": 32, "provides": ["semantic"]}, "stereo": STEREO}


@pytest.mark.parametrize(
    ("data", "output", "key"),
    [
        (STEREO, "softplus", r"'.*:Stereo' \(data\.metric: false\)"),
        ({"name": "mix", "sets": SETS}, "sigmoid", r"'mix' \(data\.sets\.stereo\.metric: false\)"),
    ],
)
def test_metric_head_on_unitless_depth_raises_at_startup(data: Any, output: str, key: str, tmp_path: Path) -> None:
    values = {**CONFIG, "heads": {"near": {"name": "dpt", "width": 8, "output": output}}}
    said = r"heads\.near \(dpt\) learns metres, but the depth of the data set has no unit.*output: relative"
    with pytest.raises(ConfigError, match=f"^{said}.*The data set is {key}"):
        densevit.fit(values | {"data": {**data, "image_size": 32, "batch_size": 1}}, run_dir=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_patience_without_a_metric_is_an_error() -> None:
    with pytest.raises(ConfigError, match=r"^trainer\.patience is 3, but nothing is validated.* Fix: leave"):
        check_monitor(None, {}, 3)
    assert check_monitor(None, {}) == []
