"""Recipes that compare a backbone of one's own with published ones: the protocol stays, whatever the backbone is."""

from pathlib import Path

import pytest

from densevit import config as configs
from densevit.config import BackboneSection, Config
from densevit.errors import ConfigError
from densevit.interfaces import Class
from densevit.layouts import coco_classes, segmentation_classes
from densevit.training.loop.optim import learning_rate, rates_of
from tests.configs.generated import make_coco, make_depth_maps, make_label_maps
from tests.configs.published import full_model, one_step
from tests.configs.test_steps import SMALL_DETR

RECIPES = sorted(Path("configs/paper").glob("*.yaml"))
RATES = {"coco": (1e-4, 1e-5), "ade20k": (6e-5, 6e-5), "nyu": (1e-4, 1e-4)}  # of the head and of the backbone
SMALL = {
    "coco": [f"heads.detection.transformer.{option}" for option in SMALL_DETR],
    "ade20k": ["heads.segmentation.width=16", "heads.segmentation.auxiliary_width=16", "data.transforms.short_side=64"],
    "nyu": ["heads.depth.width=16"],
}
SIZES = {"coco": "[96, 160]", "ade20k": "64", "nyu": "[64, 96]"}


NAME = "backbone.name=tests.small_models:FourMaps"
OWN = f"{NAME} backbone.weights=random"


CLASSES: dict[str, dict[str, list[Class]]] = {
    "coco": {"detection": coco_classes()}, "ade20k": {"segmentation": segmentation_classes(150)}, "nyu": {}
}  # fmt: skip


def small(recipe: str, root: Path) -> list[str]:
    """Overrides for generated images and a narrow head."""
    if recipe == "coco":
        make_coco(root, (60, 90))
    elif recipe == "ade20k":
        make_label_maps("ade20k", root, (40, 60))
    else:
        make_depth_maps("nyu", root, [(480, 640), (480, 640)])
    return [*SMALL[recipe], f"data.root={root}", "data.num_workers=0", f"data.image_size={SIZES[recipe]}"]


@pytest.mark.parametrize("backbone", [OWN, "backbone.name=timm backbone.model=convnext_atto backbone.weights=random"])
@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_another_backbone_has_its_own_options_and_the_protocol(path: Path, backbone: str) -> None:
    """Nothing of the published backbone is left: no frozen norms, layers, statistics or rates of single layers."""
    published, config = configs.load(path), configs.load(path, backbone.split())
    given = dict(part.removeprefix("backbone.").split("=") for part in backbone.split())
    assert config.backbone == BackboneSection(**given)
    for key in set(Config.model_fields) - {"backbone"}:
        assert getattr(config, key) == getattr(published, key), key
    model = full_model(config, CLASSES[path.stem])
    lr, backbone_lr = RATES[path.stem]
    for rate in rates_of(model, config.optim, learning_rate(config.optim, 16)):
        assert rate.lr == (backbone_lr if rate.name.startswith("backbone.") else lr), rate.name


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_another_backbone_without_weights_is_an_error_with_both_commands(path: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("name: tests.small_models:FourMaps\n")
    for override in (NAME, f"backbone={tmp_path / 'mine.yaml'}"):
        with pytest.raises(ConfigError) as caught:
            configs.check_plugins(configs.load(path, [override]))
        command = f"densevit train {path} ... {NAME} backbone.weights="
        assert f"{command}SOURCE" in str(caught.value) and f"{command}random" in str(caught.value)
        configs.check_plugins(configs.load(path, [override, "backbone.weights=mine.pth"]))
    configs.check_plugins(configs.load(path, ["backbone=convnext_tiny"]))  # it has weights of its own


@pytest.mark.integration
@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_smaller_recipe_trains_one_step(path: Path, tmp_path: Path) -> None:
    step = one_step(configs.load(path, [*OWN.split(), *small(path.stem, tmp_path / "data"), "data.batch_size=2"]))
    assert all(parameter.grad is not None for parameter in step.model.parameters())
