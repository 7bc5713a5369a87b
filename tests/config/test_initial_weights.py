"""Which weights a model starts from: `weights`, or where it is null, those of its parts."""

from pathlib import Path

import pytest

import densevit
from densevit import config as configs
from densevit.errors import ConfigError
from tests.config.conftest import write

DETR = str(Path(__file__).parents[2] / "configs" / "coco" / "detr_r50.yaml")


def test_weights_of_the_model_over_those_of_a_part_are_a_line() -> None:
    """Which layer sets the weights: tests/config/test_config_layers.py."""
    write(
        "base.yaml",
        "backbone: {name: vit, weights: part}\nheads: {a: {name: setr}}\n"
        "data: {name: scenes}\ntrainer: {max_steps: 1}\n",
    )
    config = configs.load("base.yaml", ["weights=whole"])
    [line] = config.notes
    assert line.startswith("backbone.weights=part (") and " gives way to weights=whole (overrides" in line
    write("resolved.yaml", configs.dump(config))
    again = configs.load("resolved.yaml")
    assert again == config and not again.notes and not configs.load("base.yaml").notes


def test_random_weights_on_purpose() -> None:
    assert configs.load("start/detector", ["backbone.weights=random"]).backbone.options.get("pretrained") is None
    assert configs.load(DETR, ["backbone.weights=random"]).backbone.source is None
    section = {"name": "swin", "variant": "nano", "weights": "random", "freeze": True}
    model = densevit.create_model(section, heads={"a": "setr"}, classes={"a": ["x"]})
    assert not any(parameter.requires_grad for parameter in model.backbone.parameters())


def test_weights_of_another_backbone_of_a_recipe() -> None:
    """Also tests/config/test_config_layers.py."""
    with pytest.raises(ConfigError, match=r"resnet50/IMAGENET1K_V1 .* is for another backbone than backbone\.name=vit"):
        configs.check_plugins(configs.load(DETR, ["backbone.name=vit"]))
    configs.check_plugins(configs.load(DETR, ["backbone.depth=101"]))  # the weights tell
