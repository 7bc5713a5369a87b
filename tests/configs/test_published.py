"""Published recipes have the parameters and the settings that published.yaml lists with their sources."""

from functools import reduce
from pathlib import Path
from typing import Any

import pytest
import yaml

from densevit.config import Config
from densevit.layouts import coco_classes, coco_panoptic_classes, segmentation_classes
from densevit.training.loop.optim import rates_of
from tests.configs.published import Recipe, count, full_model, with_variants

EXPECTED: dict[str, dict[str, Any]] = yaml.safe_load((Path(__file__).parent / "published.yaml").read_text())
FOLDERS = ("ade20k", "cityscapes", "coco", "kitti", "nyu")
RECIPES = {
    str(recipe): recipe
    for recipe in with_variants(path for folder in FOLDERS for path in Path("configs", folder).glob("*.yaml"))
}


def built(recipe: Recipe) -> Any:
    """The recipe's model on the meta device."""
    classes = segmentation_classes(19 if recipe.path.parent.name == "cityscapes" else 150)
    given = {"detection": coco_classes(), "panoptic": coco_panoptic_classes(), "segmentation": classes}
    return full_model(recipe.load(), given)


def settings(config: Config) -> dict[str, Any]:
    """The config's values, the options of its heads, and the images of a step."""
    heads = {
        name: {**head.options, **({"evaluation": head.evaluation.options} if head.evaluation.options else {})}
        for name, head in config.heads.items()
    }
    images = config.data.batch_size * config.trainer.accumulate * int(config.trainer.devices)
    return {**config.model_dump(mode="json"), "images": images, "heads": heads}


def test_all_recipes_and_their_variants_are_listed() -> None:
    assert RECIPES.keys() == EXPECTED.keys()
    variants = {recipe for recipe in with_variants(Path("configs").rglob("*.yaml")) if recipe.overrides}
    assert len(variants) > 30 and variants <= {*RECIPES.values()}


@pytest.mark.parametrize("name", RECIPES)
def test_recipe_has_the_published_parameters_and_settings(name: str) -> None:
    expected, model = dict(EXPECTED[name]), built(RECIPES[name])
    parameters = expected.pop("parameters")
    assert (count(model), count(model, trained=True)) == (parameters, expected.pop("trained", parameters))
    values = settings(RECIPES[name].load())
    found = {key: reduce(lambda inner, part: inner[part], key.split("."), values) for key in expected}
    assert found == expected


def test_single_layers_have_the_authors_learning_rates() -> None:
    """Offsets of Deformable DETR learn slowly; RT-DETR's norms do not decay; EoMT's last blocks learn as its head."""
    rates = {}
    for name in ("coco/deformable_detr_r50", "coco/rtdetr_r50", "coco/eomt_large_dinov3_panoptic"):
        config = RECIPES[name].load()
        rates[name.split("/")[1].split("_")[0]] = rates_of(built(RECIPES[name]), config.optim, config.optim.lr or 0)
    slow = {one.name for one in rates["deformable"] if one.lr == 2e-5 and not one.name.startswith("backbone.")}
    layers = ("offsets.weight", "offsets.bias", "queries.reference.weight", "queries.reference.bias")
    assert slow == {one.name for one in rates["deformable"] if one.name.endswith(layers)} != set()
    decayed = {one.name for one in rates["rtdetr"] if one.weight_decay}
    assert decayed and not any(name.endswith("bias") or "norm" in name for name in decayed)
    found = {one.name: one.lr for one in rates["eomt"]}
    for i, rate in {0: 2e-4 * 0.8**23, 19: 2e-4 * 0.8**4, 20: 2e-4, 23: 2e-4}.items():
        assert found[f"backbone.blocks.{i}.mlp.expand.weight"] == pytest.approx(rate)
