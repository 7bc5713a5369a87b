"""Recipes of the published trainings of Mask2Former and panoptic DETR: model, cost, settings and one step."""

from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from densevit.model import DenseModel
from densevit.training.loop.evaluators import build_evaluators
from densevit.weights.label_sets import coco_classes, coco_panoptic_classes, numbered_classes
from tests.configs.generated import make_coco, make_label_maps
from tests.configs.published import Recipe, count, full_model, one_step, with_variants

SMALLER = (
    "coco/detr_panoptic_r50",
    "coco/mask2former_r50",
    "coco/mask2former_swin_large_panoptic",
    "ade20k/mask2former_swin_tiny",
)
COCO, ADE20K = Path("configs/coco"), Path("configs/ade20k")
RECIPES = with_variants(
    [*COCO.glob("mask2former*.yaml"), *COCO.glob("detr_panoptic*.yaml"), *ADE20K.glob("mask2former*.yaml")]
)
TINY = "backbone.name=swin backbone.variant=tiny backbone.drop_path=0.3"

MILLIONS = {  # of parameters, Cheng et al. 2022 and Carion et al. 2020
    "coco/mask2former_r50": 44,
    "coco/mask2former_r50_panoptic": 44,
    f"coco/mask2former_r50 {TINY}": 47,
    f"coco/mask2former_r50_panoptic {TINY}": 47,
    "coco/mask2former_swin_large_panoptic": 216,
    "coco/detr_panoptic_r50": 42.9,
    "ade20k/mask2former_swin_tiny": 47,
    "ade20k/mask2former_swin_large": 215,
}
GMACS = 232  # of the panoptic Swin-T: Cheng et al. 2022, table 1, the mean over 100 images whose sizes are not known


def built(recipe: Recipe) -> DenseModel:
    """The recipe's model on the meta device."""
    classes = {
        "detection": coco_classes(),
        "panoptic": coco_panoptic_classes(),
        "segmentation": numbered_classes(150, ()),
    }
    return full_model(recipe.load(), classes)


def test_all_recipes_are_tested() -> None:
    assert {str(recipe) for recipe in RECIPES} == set(MILLIONS)


@pytest.mark.integration
def test_multiply_adds_match_the_paper() -> None:
    """One image of 800 x 1131, as in `test_detr_cost`; counts convolutions and matrix products, no sampling.

    5 to 9 % below the published numbers: the paper's images and counted operations are not known.
    """
    [recipe] = (one for one in RECIPES if str(one) == f"coco/mask2former_r50_panoptic {TINY}")
    model = built(recipe).eval()
    batch = torch.empty(1, 3, 800, 1131, device="meta"), torch.zeros(1, 800, 1131, dtype=torch.bool, device="meta")
    with FlopCounterMode(display=False) as counter:
        model.heads["panoptic"](model.backbone(batch[0]), batch[1])
    assert counter.get_total_flops() / 2e9 == pytest.approx(GMACS, rel=0.1)


@pytest.mark.parametrize("recipe", RECIPES, ids=str)
def test_recipe_matches_the_published_one(recipe: Recipe) -> None:
    """The configs of facebookresearch/Mask2Former; section 4.4 of Carion et al. 2020 and facebookresearch/detr."""
    config = recipe.load()
    assert round(count(built(recipe)) / 1e6, 1 if "detr" in recipe.name else None) == MILLIONS[str(recipe)]
    optim, trainer, data = config.optim, config.trainer, config.data
    [head] = config.heads.values()
    images = data.batch_size * trainer.accumulate
    assert (optim.name, optim.lr, optim.backbone_lr, images, trainer.devices) == ("adamw", 1e-4, 1e-5, 16, 1)
    if "detr" in recipe.name:
        assert (trainer.max_epochs, optim.schedule, optim.drop_at) == (25, "step", 15 / 25)
        assert (optim.weight_decay, trainer.clip_grad_norm) == (1e-4, 0.1)
        assert (data.name, data.transforms.name, data.image_size) == ("coco_panoptic", "detr", (800, 1333))
        return
    large, ade, panoptic = "large" in recipe.name, recipe.path.parent == ADE20K, "panoptic" in recipe.name
    steps = 160_000 if ade else 368_750 * (1 + large)
    assert (trainer.max_steps, optim.weight_decay, trainer.clip_grad_norm) == (steps, 0.05, 0.01)
    schedule = ("poly", 0.67) if ade else ("step", round(327_778 / 368_750, 3))
    assert (optim.schedule, optim.drop_at) == schedule
    assert head.options["num_queries"] == (200 if large and panoptic else 100)
    assert config.backbone.options.get("drop_path", 0.3) == 0.3
    if ade:
        side = 640 if large else 512
        assert data.image_size == side and data.transforms.model_dump() == {
            "name": "crop",
            "short_side": side,
            "scales": [0.5, 2.0],
        }
    else:
        assert data.image_size == 1024 and data.transforms.model_dump() == {
            "name": "lsj",
            "short_side": 800,
            "scales": [0.1, 2.0],
        }
        assert data.name == ("coco_panoptic" if panoptic else "coco")


@pytest.mark.integration
@pytest.mark.parametrize("recipe", [one for one in RECIPES if str(one) in SMALLER], ids=str)
def test_smaller_recipe_trains_one_step_and_is_evaluated(recipe: Recipe, tmp_path: Path) -> None:
    detr, ade = "detr" in recipe.name, recipe.path.parent == ADE20K
    root = make_label_maps("ade20k", tmp_path, (60, 90)) if ade else make_coco(tmp_path, (60, 90))
    [head] = (f"heads.{task}" for task in recipe.load().heads)
    options = f"{head}.detr.transformer" if detr else f"{head}.transformer"
    smaller = [f"{options}.width=32", f"{options}.decoder_layers=2", f"{options}.feedforward=64"]
    smaller += [f"{options}.encoder_layers=1"] if detr else [f"{head}.pixel_decoder.layers=1", f"{head}.num_points=64"]
    smaller += ["backbone.variant=nano"] if "swin" in recipe.name else ["backbone.depth=18"]
    size = ["data.image_size=[64, 128]"] if detr else ["data.image_size=64", "data.transforms.short_side=64"]
    config = recipe.load(*smaller, f"data.root={root}", "data.num_workers=0", "data.batch_size=1", *size)
    step = one_step(config)
    assert step.losses[f"{head.partition('.')[2]}/dice"] > 0
    masks = tuple(f"{head}.{part}" for part in ("attention_maps", "mask_head"))
    assert all(key.startswith(masks) for key in step.changed) == detr and step.changed

    data, model = step.data, step.model
    [evaluator] = build_evaluators(model, config, data.val).values()
    batch = next(iter(data.val_loader()))
    model.eval()
    [found] = model.predictions(model(batch), batch["targets"]).values()
    evaluator.update(found, [target["truth"] for target in batch["targets"]])
    metric = {"detection": "mask_AP", "panoptic": "PQ", "segmentation": "mIoU"}[head.partition(".")[2]]
    assert evaluator.main == metric and 0 <= evaluator.compute()[metric] <= 1
