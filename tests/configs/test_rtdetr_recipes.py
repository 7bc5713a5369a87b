"""Recipes of RT-DETR on COCO beside the authors' configs: model, optimiser, one step on images of one size."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from densevit.training.loop.optim import rates_of
from densevit.weights.label_sets import coco_classes
from tests.configs.generated import make_coco
from tests.configs.published import Recipe, count, full_model, one_step, with_variants

RECIPES = with_variants(Path("configs/coco").glob("rtdetr*.yaml"))
# Parameters in all, of which the stem of R50 and R101 is frozen and their norms are buffers.
PARAMETERS = {"r18": 20_184_208, "r34": 31_441_412, "r50": 42_944_364, "r101": 76_661_484}
LAYERS = {"r18": 3, "r34": 4, "r50": 6, "r101": 6}  # of the decoder
FROZEN_STEM = {"r50", "r101"}
STEM = 9 * 3 * 32 + 9 * 32 * 32 + 9 * 32 * 64  # kernels
BLOCKS = {"r50": (3, 4, 6, 3), "r101": (3, 4, 23, 3)}
# Learning rate of the backbone, epochs.
SCHEDULES = {
    "rtdetr_r18": (1e-5, 72),
    "rtdetr_r34": (1e-5, 72),
    "rtdetr_r50": (1e-5, 72),
    "rtdetr_r101": (1e-6, 72),
    "rtdetrv2_r18": (None, 120),
    "rtdetrv2_r34": (5e-5, 120),
    "rtdetrv2_r50": (1e-5, 72),
    "rtdetrv2_r101": (1e-6, 72),
}
SCALES = (480, 512, 544, 576, 608, 640, 640, 640, 672, 704, 736, 768, 800)


def norms(blocks: Sequence[int]) -> int:
    """Parameters of the batch norms of a ResNet-vd with bottlenecks."""
    stages = zip(blocks, (64, 128, 256, 512), strict=True)
    return 2 * (32 + 32 + 64) + sum(2 * (count * (2 * width + 4 * width) + 4 * width) for count, width in stages)


def name(recipe: Recipe) -> str:
    """As in `rtdetr_r101`."""
    return f"{recipe.path.stem.partition('_')[0]}_r{recipe.load().backbone.options['depth']}"


def test_all_recipes_are_tested() -> None:
    assert sorted(name(recipe) for recipe in RECIPES) == sorted(SCHEDULES)


@pytest.mark.parametrize("recipe", RECIPES, ids=str)
def test_recipe_matches_the_authors_config(recipe: Recipe) -> None:
    """rtdetr_pytorch/configs/rtdetr and rtdetrv2_pytorch/configs/rtdetrv2 of lyuwenyu/RT-DETR."""
    config = recipe.load()
    model = full_model(config, {"detection": coco_classes()})
    version, depth = name(recipe).split("_")
    fixed = STEM + norms(BLOCKS[depth]) if depth in FROZEN_STEM else 0
    assert count(model, trained=True) == PARAMETERS[depth] - fixed
    backbone_lr, epochs = SCHEDULES[name(recipe)]
    optim, trainer, data = config.optim, config.trainer, config.data
    assert (optim.name, optim.lr, optim.backbone_lr, optim.weight_decay) == ("adamw", 1e-4, backbone_lr, 1e-4)
    assert (optim.schedule, optim.warmup_steps, trainer.max_epochs) == ("constant", 2000, epochs)
    assert (trainer.ema, trainer.clip_grad_norm, data.batch_size * trainer.accumulate) == (0.9999, 0.1, 16)
    assert trainer.ema_warmup == 2000
    assert data.image_size == 640
    assert data.multi_scale == (None if name(recipe) == "rtdetrv2_r18" else SCALES)
    if version == "rtdetrv2":
        assert data.final_phase is not None and data.in_final_phase.multi_scale is None
        assert data.final_phase.start * epochs == pytest.approx({120: 117, 72: 71}[epochs], abs=1e-3)
    else:
        assert data.final_phase is None
    assert (config.backbone.mean, config.backbone.std) == ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    head = model.heads["detection"]
    assert len(head.decoder) == LAYERS[depth] and head.num_queries == 300
    decayed = {rate.name for rate in rates_of(model, optim, 1e-4) if rate.weight_decay}
    assert not any(name.endswith("bias") or "norm" in name for name in decayed)


@pytest.mark.integration
@pytest.mark.parametrize("recipe", [one for one in RECIPES if name(one) in ("rtdetr_r50", "rtdetrv2_r18")], ids=str)
def test_smaller_recipe_trains_one_step(recipe: Recipe, tmp_path: Path) -> None:
    head = "heads.detection"
    smaller = [f"{head}.encoder.width=16", f"{head}.encoder.feedforward=16", f"{head}.transformer.width=32"]
    smaller += [f"{head}.transformer.{x}" for x in ("encoder_layers=1", "decoder_layers=2", "feedforward=64")]
    smaller += [f"data.root={make_coco(tmp_path / 'coco', (60, 90))}", "data.num_workers=0", "data.batch_size=2"]
    step = one_step(recipe.load(*smaller, "data.image_size=128", "data.multi_scale=null"))
    assert step.batch["images"].shape == (2, 3, 128, 128) and not step.batch["padding_mask"].any()
    assert any(name.startswith("backbone.layer2") for name in step.changed)
    frozen = {name for name, parameter in step.model.named_parameters() if not parameter.requires_grad}
    stem = {f"backbone.conv1.{i}.weight" for i in (0, 3, 6)}
    assert frozen == (stem if name(recipe).split("_")[1] in FROZEN_STEM else set())
