"""Recipes of the published trainings of DETR, Deformable DETR and DINO on COCO: model, one step, evaluation."""

from pathlib import Path

import pytest

from densevit.training.loop.optim import rates_of
from densevit.weights.label_sets import coco_classes
from tests.configs.generated import make_coco
from tests.configs.published import Recipe, count, full_model, one_step, with_variants

RECIPES = with_variants(
    path for kind in ("detr_r*", "deformable*", "dino*") for path in Path("configs/coco").glob(f"{kind}.yaml")
)
R50 = 41_302_368  # "number of params" in the authors' log, the same with dilation
R101 = R50 + 17 * (1024 * 256 + 9 * 256 * 256 + 256 * 1024)  # additional bottlenecks, without their frozen norms
UNUSED = 11 * (256 + 1)  # rows of unused file ids
BOX_HEAD = 2 * (256 * 256 + 256) + 256 * 4 + 4
DEFORMABLE = 39_824_906 + 76 * 257  # "number of params" in issue 110 of the authors' repository, with 4 classes
REFINED = DEFORMABLE + 5 * (80 * 257 + BOX_HEAD)  # prediction heads of its own in each of 6 layers
TWO_STAGE = REFINED + 80 * 257 + BOX_HEAD + 256 * 257 + 2 * 256 + 512 * 513 + 2 * 512 - 300 * 512 - 2 * 257
FFN = 12 * (2 * 256 * 1024 + 1024)  # width 2048 instead of 1024
MIXED = 300 * 256 - 256 * 513 - 2 * 256  # learned contents; only positions are embedded
POSITIONS = 256 * 513 + 256 * 257  # MLP of two layers for positions, without a norm, instead of positions and contents
DINO = TWO_STAGE + FFN + 900 * 256 + POSITIONS - 512 * 513 - 2 * 512
DINO += 80 * 256  # label embedding of denoising
TRICKS = TWO_STAGE + FFN + MIXED
R50_BACKBONE = 23_454_912 - 9_408 - 212_992  # convolutions, without the frozen stem and first stage
NORMS = 2 * (1 + 2 + 4)  # for each feature but the last, by the width of the first
SWIN_T = 28_288_354 - 1000 * 769 + NORMS * 96 - R50_BACKBONE  # timm's without its classifier, instead of the ResNet
SWIN_T += (192 + 384 + 768 - 512 - 1024 - 2048) * 256 + 9 * (768 - 2048) * 256  # projections to levels
SWIN_L = 196_532_476 - 1000 * 1537 + NORMS * 192 - R50_BACKBONE
SWIN_L += (384 + 768 + 1536 - 512 - 1024 - 2048) * 256 + 9 * (1536 - 2048) * 256
WINDOW_12 = 360 * 564  # 529 instead of 169 rows of each head's table
SMALL = ("width=32", "encoder_layers=1", "decoder_layers=2", "feedforward=64")
DC5 = "backbone.dilation=true data.batch_size=1 trainer.accumulate=64"
LONG = "trainer.max_epochs=36 optim.drop_at=0.8333"
TINY, LARGE = (f"backbone.name=swin backbone.variant={variant}" for variant in ("tiny", "large"))
TRAINED = {
    "detr_r50": R50 - UNUSED,
    f"detr_r50 {DC5}": R50 - UNUSED,
    "detr_r50 backbone.depth=101": R101 - UNUSED,
    f"detr_r50 backbone.depth=101 {DC5}": R101 - UNUSED,
    "deformable_detr_r50": DEFORMABLE,
    "deformable_detr_r50 heads.detection.box_refinement=true": REFINED,
    "deformable_detr_r50_two_stage": TWO_STAGE,
    "deformable_detr_r50_12ep": TRICKS,
    f"deformable_detr_r50_12ep {LONG}": TRICKS,
    f"deformable_detr_r50_12ep {TINY}": TRICKS + SWIN_T,
    f"deformable_detr_r50_12ep {TINY} {LONG}": TRICKS + SWIN_T,
    f"deformable_detr_r50_12ep {LARGE}": TRICKS + SWIN_L,
    f"deformable_detr_r50_12ep {LARGE} backbone.drop_path=0.5 {LONG}": TRICKS + SWIN_L,
    "dino_r50_12ep": DINO,
    f"dino_r50_12ep {LONG}": DINO,
    f"dino_r50_12ep {TINY} backbone.drop_path=0.1": DINO + SWIN_T,
    f"dino_r50_12ep {TINY} backbone.drop_path=0.1 {LONG}": DINO + SWIN_T,
    f"dino_r50_12ep {LARGE} backbone.window_size=12": DINO + SWIN_L + WINDOW_12,
    f"dino_r50_12ep {LARGE} backbone.window_size=12 {LONG}": DINO + SWIN_L + WINDOW_12,
}


SMALLER = (
    f"detr_r50 {DC5}",
    "deformable_detr_r50 heads.detection.box_refinement=true",
    "deformable_detr_r50_two_stage",
    f"deformable_detr_r50_12ep {TINY}",
    "dino_r50_12ep",
    f"dino_r50_12ep {LARGE} backbone.window_size=12",
)


def test_all_recipes_are_tested() -> None:
    assert {recipe.name for recipe in RECIPES} == set(TRAINED)


@pytest.mark.parametrize("recipe", RECIPES, ids=str)
def test_recipe_matches_the_published_one(recipe: Recipe) -> None:
    """Carion et al. 2020, sections 3 and 4 and appendix A.4; Zhu et al. 2021, section 5.1; the authors' READMEs; DINO's
    config/DINO/DINO_4scale.py; detrex' projects/dino and coco_schedule.py; H-Deformable-DETR's configs/two_stage."""
    config = recipe.load()
    model = full_model(config, {"detection": coco_classes()})
    assert count(model, trained=True) == TRAINED[recipe.name]
    optim, trainer, data = config.optim, config.trainer, config.data
    model_name = recipe.name.split("_")[0]
    lr, epochs, images = {"deformable": (2e-4, 50, 32), "detr": (1e-4, 500, 64), "dino": (1e-4, 0, 16)}[model_name]
    drop_at = 0.8
    if "12ep" in recipe.name:
        epochs, images = 36 if LONG in recipe.name else 12, 16
        drop_at = {12: 11, 36: 30}[epochs] / epochs
    assert (optim.name, optim.lr, optim.backbone_lr, optim.weight_decay) == ("adamw", lr, lr / 10, 1e-4)
    assert (optim.schedule, optim.drop_at, trainer.max_epochs) == ("step", pytest.approx(drop_at, abs=1e-4), epochs)
    assert trainer.clip_grad_norm == 0.1 and data.batch_size * trainer.accumulate == images
    assert (data.transforms.name, data.image_size) == ("detr", (800, 1333))
    assert config.backbone.options.get("dilation", False) == (DC5 in recipe.name)
    rates = rates_of(model, optim, lr)
    slow = {rate.name for rate in rates if rate.lr == 0.1 * lr and not rate.name.startswith("backbone.")}
    expected = ("offsets.weight", "offsets.bias", "queries.reference.weight", "queries.reference.bias")
    if model_name == "dino":  # param_dict_type = "default"
        expected = ()
    assert slow == {name for name, _ in model.named_parameters() if name.endswith(expected)}


@pytest.mark.integration
@pytest.mark.parametrize("recipe", [one for one in RECIPES if one.name in SMALLER], ids=str)
def test_smaller_recipe_trains_one_step(recipe: Recipe, tmp_path: Path) -> None:
    dilated = DC5 in recipe.name
    backbone = "backbone.variant=nano" if "swin" in recipe.name else f"backbone.depth={50 if dilated else 18}"
    smaller = [backbone, *(f"heads.detection.transformer.{option}" for option in SMALL), "data.num_workers=0"]
    smaller += [f"data.root={make_coco(tmp_path / 'coco', (60, 90))}", "data.batch_size=1", "data.image_size=[96, 160]"]
    step = one_step(recipe.load(*smaller), 64)
    assert [one.file_id for one in step.data.classes["detection"]] == [one.file_id for one in coco_classes()]
    assert step.model.backbone.strides[-1] == (16 if dilated else 32)
    for name, parameter in step.model.named_parameters():
        assert parameter.requires_grad == (not name.startswith(("backbone.conv1", "backbone.layer1", "backbone.bn1")))
