"""Recipes of published depth trainings: each builds its full model and trains one step on generated files."""

import itertools
import json
from pathlib import Path

import pytest
import torch

from densevit import config as configs
from densevit.data.build import build_data
from densevit.errors import ConfigError
from densevit.weights.building import build_model
from tests.configs.generated import make_depth_maps
from tests.configs.published import Recipe, count, full_model, one_step, with_variants
from tests.training.runs import train

RECIPES = [Path("configs/nyu/dpt_hybrid.yaml"), Path("configs/kitti/dpt_hybrid.yaml")]


PARAMETERS = (
    100_540_480,
    20_655_041,
)  # three stages of a ResNet-50, a ViT-B with two readouts, the decoder; counted by hand
DEPTH_ANYTHING = with_variants(Path("configs").glob("*/depth_anything_v2*.yaml"))
PUBLISHED_SIZES = {"small": 24.8, "base": 97.5, "large": 335.3}  # millions of parameters, the authors' README


def name(path: Path) -> str:
    return path.parent.name


SMALLER = (
    "backbone.variant=nano",
    "heads.depth.width=32",
    "data.num_workers=0",
    "trainer.accelerator=cpu",
    "trainer.precision=32",
)


@pytest.mark.integration
@pytest.mark.parametrize("path", RECIPES, ids=name)
def test_narrower_recipe_trains_one_step_at_its_crop(path: Path, tmp_path: Path) -> None:
    root = make_depth_maps(name(path), tmp_path, {"nyu": [(480, 640)], "kitti": [(375, 1242)]}[name(path)])
    step = one_step(configs.load(path, [*SMALLER, f"data.root={root}", "data.batch_size=1"]))
    assert step.batch["images"].shape == (1, 3, *{"nyu": (416, 544), "kitti": (352, 704)}[name(path)])
    known = step.batch["targets"][0]["depth"]
    known = known[known > 0]
    low, high = {"nyu": (0.5, 3.7), "kitti": (8.0, 52.0)}[name(path)]
    assert len(known) and low < known.min() and known.max() < high
    assert set(step.losses) == {"nyu": {"depth/silog", "depth/gradient"}, "kitti": {"depth/silog"}}[name(path)]
    for part, rate in (("backbone.blocks.0.mlp.expand.weight", 1e-5), ("heads.depth.conv1.weight", 1e-4)):
        moved = (dict(step.model.named_parameters())[part].detach() - step.before[part]).abs()
        torch.testing.assert_close(moved.max().item(), rate, rtol=0.05, atol=0)  # Adam's first step


@pytest.mark.parametrize("path", RECIPES, ids=name)
def test_recipe_matches_the_published_one(path: Path) -> None:
    """Ranftl et al. 2021, sections 4.1 and 4.2, and the authors' configs; crops, epochs and lists are of BTS.

    The paper has 123 M; its code's unused parts, a residual unit and ViT's last norm and classifier, are not built.
    """
    config = configs.load(path)
    model = full_model(config, {})
    assert (count(model.backbone), count(model.heads)) == PARAMETERS
    nyu = name(path) == "nyu"
    head = config.heads["depth"]
    assert config.backbone.options == {
        "variant": "base",
        "stem": "resnet",
        "weight_standardization": "std",
        "readout": "project",
        "image_size": 384,
        "position_resizing": "bilinear",
        "feature_norm": False,
        "drop_path": 0.0,
    }
    assert (head.options["max_depth"], head.options["loss_weights"]["gradient"]) == (
        (10.0, 0.5) if nyu else (80.0, 0.0)
    )
    measured = {"min_depth": 0.001, "max_depth": 10.0, "crop": "eigen"} if nyu else {"max_depth": 80.0, "crop": "garg"}
    assert head.evaluation.options == {"min_depth": 0.001} | measured
    optim = config.optim
    assert (optim.name, optim.lr, optim.backbone_lr, optim.weight_decay) == ("adam", 1e-4, 1e-5, 0.0)
    data = config.data
    assert (data.batch_size, config.trainer.devices, config.trainer.max_epochs) == (16, 1, 50)
    crop = {"name": "crop", "scales": [1.0, 1.0], "rotation": 2.5 if nyu else 1.0}
    assert data.transforms.model_dump() == crop
    assert data.image_size == ((416, 544) if nyu else (352, 704))
    assert data.options["preset"] == name(path) and config.inference.options.single_pass


def test_all_sizes_of_depth_anything_are_tested() -> None:
    sizes = [(recipe.path.parent.name, recipe.load().backbone.options["variant"]) for recipe in DEPTH_ANYTHING]
    assert sorted(sizes) == sorted([*itertools.product(("kitti", "nyu"), PUBLISHED_SIZES), ("start", "small")])


@pytest.mark.parametrize("recipe", DEPTH_ANYTHING, ids=str)
def test_depth_anything_recipe_has_the_published_size_and_settings(recipe: Recipe) -> None:
    """metric_depth/train.py of the authors; their number of parameters includes parts without effect."""
    config, folder = recipe.load(), recipe.path.parent.name
    model = full_model(config, {})
    size, width = config.backbone.options["variant"], config.heads["depth"].options["width"]
    unused = 2 * (9 * width**2 + width) + 2 * model.backbone.channels[0]  # a residual unit, two rows of tokens
    assert round((count(model) + unused) / 1e6, 1) == PUBLISHED_SIZES[size]
    assert model.backbone.feature_blocks == ((5, 12, 18, 24) if size == "large" else (3, 6, 9, 12))
    optim, data, head = config.optim, config.data, config.heads["depth"].options
    assert (optim.name, optim.backbone_lr, optim.weight_decay, optim.schedule) == ("adamw", 5e-6, 0.01, "poly")
    assert data.image_size == 518 and data.transforms.model_dump() == {
        "name": "crop",
        "short_side": 518,
        "scales": [1.0, 1.0],
    }
    assert (head["output"], head["max_depth"]) == ("sigmoid", 80.0 if folder == "kitti" else 10.0)
    if folder != "start":
        assert (optim.lr, data.batch_size, data.options["preset"]) == (5e-5, 32, folder)
        measured = {"nyu": {"max_depth": 10.0, "crop": "eigen"}, "kitti": {"max_depth": 80.0, "crop": "garg"}}
        assert config.heads["depth"].evaluation.options == {"min_depth": 0.001} | measured[folder]


SMALL_IMAGES = (
    "backbone.features=[2,3,5,6]",
    "backbone.image_size=56",
    "data.image_size=56",
    "data.transforms.short_side=56",
)


@pytest.mark.integration
def test_depth_anything_recipe_trains_and_writes_a_run_folder(tmp_path: Path) -> None:
    """With sparse ground truth and images of two sizes."""
    root = make_depth_maps("kitti", tmp_path / "data", [(94, 311), (92, 306)])
    smaller = ["data.batch_size=2", "trainer.max_epochs=null", "trainer.max_steps=2", f"data.root={root}"]
    config = configs.load("configs/kitti/depth_anything_v2_small.yaml", [*SMALLER, *SMALL_IMAGES, *smaller])
    run = train(config, tmp_path / "run")
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["depth/AbsRel"] > 0 and 0 <= metrics["depth/delta1"] <= 1
    assert len(list((run / "predictions").glob("*.jpg"))) == 2


@pytest.mark.integration
def test_own_depth_maps_without_unit_fine_tune_depth_anything(tmp_path: Path) -> None:
    root = make_depth_maps("nyu", tmp_path / "data", [(480, 640)])
    smaller = ["data.preset=nyu", f"data.root={root}", "data.batch_size=1", "trainer.max_epochs=2", "weights=null"]
    smaller += ["data.metric=false", "heads.depth.output=relative", "heads.depth.loss_weights.gradient=2"]
    run = train(configs.load("start/depth_anything_v2", [*SMALLER, *SMALL_IMAGES, *smaller]), tmp_path / "run")
    assert json.loads((run / "metrics.json").read_text())["depth/AbsRel_aligned_disparity"] >= 0


def test_metres_are_not_learned_from_depth_without_unit(tmp_path: Path) -> None:
    root = make_depth_maps("nyu", tmp_path, [(480, 640)])
    values = [*SMALLER, "backbone.features=[2,3,5,6]", "data.preset=nyu", f"data.root={root}", "data.metric=false"]
    config = configs.load("start/depth_anything_v2", values)
    data = build_data(config)
    model = build_model(config, data.classes)
    with pytest.raises(ConfigError, match="learns metres, but the depth of the data set has no unit .* relative"):
        model.heads["depth"].check(data.train)
