"""Recipes of the published trainings of SegFormer and UPerNet: model and settings."""

from pathlib import Path

import pytest

from densevit.weights.label_sets import segmentation_classes
from tests.configs.published import Recipe, count, full_model, with_variants

RECIPES = with_variants([*Path("configs").glob("*/segformer_*.yaml"), *Path("configs/ade20k").glob("upernet_*.yaml")])
# Of parameters: Xie et al. 2021, table 1 (ADE20K); Liu et al. 2021, table 3; Liu et al. 2022, table 4
MILLIONS = {
    "mit b0": 3.8, "mit b1": 13.7, "mit b2": 27.5, "mit b3": 47.3, "mit b4": 64.1, "mit b5": 84.7,
    "swin tiny": 60, "swin small": 81, "swin base": 121, "convnext_tiny": 60, "convnext_small": 82,
    "convnext_base": 122,
}  # fmt: skip


def backbone(recipe: Recipe) -> str:
    options = recipe.load().backbone.options
    return options["model"] if "model" in options else f"{recipe.load().backbone.name} {options['variant']}"


def test_all_recipes_are_tested() -> None:
    assert {backbone(recipe) for recipe in RECIPES} == set(MILLIONS) and len(RECIPES) == 18


@pytest.mark.parametrize("recipe", RECIPES, ids=str)
def test_parameters_and_settings_match_the_published_ones(recipe: Recipe) -> None:
    """The configs of NVlabs/SegFormer and mmsegmentation."""
    config = recipe.load()
    city = recipe.path.parent.name == "cityscapes"
    model = full_model(config, {"segmentation": segmentation_classes(19 if city else 150)})
    close = 0.15 if config.backbone.name == "mit" else 0.7
    assert count(model) / 1e6 == pytest.approx(MILLIONS[backbone(recipe)], abs=close)
    optim, trainer, data = config.optim, config.trainer, config.data
    assert (optim.name, optim.schedule, optim.warmup_steps, trainer.max_steps) == ("adamw", "poly", 1500, 160_000)
    assert data.batch_size == (8 if city else 16)
    assert (data.transforms.name, data.transforms.options["scales"]) == ("crop", [0.5, 2.0])
    assert data.image_size == (1024 if city else 640 if backbone(recipe) == "mit b5" else 512)
    family = recipe.path.stem.rpartition("_")[0]
    rates = {
        "segformer": (6e-4, 6e-5, 0.01), "upernet_swin": (6e-5, None, 0.01), "upernet_convnext": (1e-4, None, 0.05)
    }  # fmt: skip
    assert (optim.lr, optim.backbone_lr, optim.weight_decay) == rates[family]
