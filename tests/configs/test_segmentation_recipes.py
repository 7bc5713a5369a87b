"""Recipes of the published trainings of SegFormer and UPerNet: model and settings."""

from pathlib import Path

import pytest
import torch

from densevit import config as configs
from densevit.inference.creating import build_model
from densevit.weights.label_sets import segmentation_classes

RECIPES = sorted([*Path("configs").glob("*/segformer_*.yaml"), *Path("configs/ade20k").glob("upernet_*.yaml")])
# Of parameters: Xie et al. 2021, table 1 (ADE20K); Liu et al. 2021, table 3; Liu et al. 2022, table 4
MILLIONS = {
    "segformer_b0": 3.8, "segformer_b1": 13.7, "segformer_b2": 27.5, "segformer_b3": 47.3, "segformer_b4": 64.1,
    "segformer_b5": 84.7, "upernet_swin_tiny": 60, "upernet_swin_small": 81, "upernet_swin_base": 121,
    "upernet_convnext_tiny": 60, "upernet_convnext_small": 82, "upernet_convnext_base": 122,
}  # fmt: skip


def name(path: Path) -> str:
    return f"{path.parent.name}-{path.stem}"


def test_all_recipes_are_tested() -> None:
    assert {path.stem for path in RECIPES} == set(MILLIONS) and len(RECIPES) == 18


@pytest.mark.parametrize("path", RECIPES, ids=name)
def test_parameter_counts_match_the_papers(path: Path) -> None:
    config = configs.load(path)
    configs.check_plugins(config)
    count = 19 if path.parent.name == "cityscapes" else 150
    with torch.device("meta"):
        model = build_model(config, {"segmentation": segmentation_classes(count)})
    millions = sum(p.numel() for p in model.parameters()) / 1e6
    assert millions == pytest.approx(MILLIONS[path.stem], abs=0.15 if "segformer" in path.stem else 0.7)


@pytest.mark.parametrize("path", RECIPES, ids=name)
def test_settings_match_the_published_ones(path: Path) -> None:
    """The configs of NVlabs/SegFormer and mmsegmentation."""
    config = configs.load(path)
    optim, trainer, data = config.optim, config.trainer, config.data
    city = path.parent.name == "cityscapes"
    assert (optim.name, optim.schedule, optim.warmup_steps, trainer.max_steps) == ("adamw", "poly", 1500, 160_000)
    assert (data.batch_size, data.recipe, data.scales) == (8 if city else 16, "crop", (0.5, 2.0))
    assert data.image_size == (1024 if city else 640 if path.stem == "segformer_b5" else 512)
    family = path.stem.rpartition("_")[0]
    rates = {
        "segformer": (6e-4, 6e-5, 0.01), "upernet_swin": (6e-5, None, 0.01), "upernet_convnext": (1e-4, None, 0.05)
    }  # fmt: skip
    assert (optim.lr, optim.backbone_lr, optim.weight_decay) == rates[family]
