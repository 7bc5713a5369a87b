"""Recipes of EoMT: parameters of the published models, and learning rates as in the authors' `configure_optimizers`."""

from pathlib import Path

import pytest

from densevit.training.loop.optim import rates_of
from densevit.weights.label_sets import coco_classes, coco_panoptic_classes, numbered_classes
from tests.configs.published import count, full_model, with_variants

CLASSES = {
    "detection": coco_classes(),
    "panoptic": coco_panoptic_classes(),
    "segmentation": numbered_classes(150, ()),
}
MILLIONS = {  # LightlyTrain's table, on DINOv3: 23.4, 92.5, 315.1; with DINOv2 a position table is added
    "coco/eomt_large_panoptic": 316,
    "coco/eomt_large_instance": 316,
    "coco/eomt_large_dinov3_panoptic": 315.1,
    "coco/eomt_base_panoptic": 92.5 + 1.23,  # and a position table of 40 x 40
    "coco/eomt_base_panoptic backbone.variant=small": 23.4 + 0.61,
    "ade20k/eomt_large": 316,
}


RECIPES = {str(recipe): recipe for recipe in with_variants(Path("configs").glob("*/eomt_*.yaml"))}


def test_all_recipes_are_tested():
    assert set(RECIPES) == set(MILLIONS)


def built(name):
    config = RECIPES[name].load()
    return config, full_model(config, {key: CLASSES[key] for key in config.heads})


@pytest.mark.parametrize("name", MILLIONS)
def test_parameters_are_those_of_the_published_model(name):
    config, model = built(name)
    assert count(model) / 1e6 == pytest.approx(MILLIONS[name], rel=0.006)
    assert model.backbone.input_size == (config.data.image_size, config.data.image_size)


def rates(name):
    config, model = built(name)
    return {rate.name: rate.lr for rate in rates_of(model, config.optim, config.optim.lr)}


def test_blocks_have_the_authors_rates():
    found = rates("coco/eomt_large_panoptic")
    for i in (0, 10, 23):
        assert found[f"backbone.blocks.{i}.mlp.expand.weight"] == pytest.approx(1e-4 * 0.8 ** (23 - i))
    assert found["heads.panoptic.queries.weight"] == pytest.approx(1e-4)


def test_the_last_blocks_have_the_full_rate_on_dinov3():
    found = rates("coco/eomt_large_dinov3_panoptic")
    expected = {0: 2e-4 * 0.8**23, 19: 2e-4 * 0.8**4, 20: 2e-4, 21: 2e-4, 22: 2e-4, 23: 2e-4}
    for i, rate in expected.items():
        assert found[f"backbone.blocks.{i}.mlp.expand.weight"] == pytest.approx(rate)
