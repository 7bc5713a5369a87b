"""Every shipped config loads; those of scenes and papers build their models and train one step."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from densevit import config as configs
from densevit.data.build import build_data, build_evaluation_transform
from densevit.training.loop.unused_parameters import freeze_unused
from densevit.weights.building import build_model
from densevit_scenes.dataset import Scenes
from densevit_workbench.interchange.dataset_writer import write_split
from tests.configs import (
    test_coco_recipes,
    test_depth_recipes,
    test_eomt_recipes,
    test_mask_recipes,
    test_rtdetr_recipes,
    test_segmentation_recipes,
)
from tests.configs.published import Recipe, with_variants

SHIPPED = sorted([*Path("configs").glob("*.yaml"), *Path("configs/scenes").glob("*.yaml")])
SECTIONS = sorted(Path("configs/data").glob("*.yaml"))
PUBLISHED = sorted(
    path
    for path in Path("configs").glob("*/*.yaml")
    if path not in SECTIONS
    and path.parent.name not in ("benchmark", "backbone", "start", "scenes", "pretrain", "papers")
)  # test_recipes.py, test_coco_recipes.py, test_mask_recipes.py and test_depth_recipes.py run them
START = sorted(Path("configs/start").glob("*.yaml"))  # test_start_recipes.py runs them
PAPERS = sorted(Path("configs/papers").glob("*.yaml"))
PRETRAINING = sorted(Path("configs/pretrain").glob("*.yaml"))  # test_pretraining_recipes.py runs them


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small data set in COCO format, in the official layout too."""
    root = tmp_path_factory.mktemp("coco")
    for split in ("train", "val"):
        dataset = Scenes(split, image_size=(48, 64), train_length=8, val_length=8)
        assert len(list(write_split(dataset, root, split))) == 8
        (root / f"{split}2017").symlink_to(root / split / "images")
        (root / "annotations" / f"instances_{split}2017.json").symlink_to(root / "annotations" / f"{split}.json")
    return root


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images and label PNGs of 12 values, in CamVid's layout."""
    root, rng = tmp_path_factory.mktemp("camvid"), np.random.default_rng(0)
    for folder, shape, most in (("images", (60, 80, 3), 256), ("labels", (60, 80), 12)):
        for split in ("train", "val"):
            (root / folder / split).mkdir(parents=True)
            for i in range(4):
                pixels = rng.integers(0, most, shape, dtype=np.uint8)
                Image.fromarray(pixels).save(root / folder / split / f"{i}.png")
    return root


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images and depth maps in millimetres, in one folder."""
    root, rng = tmp_path_factory.mktemp("depth"), np.random.default_rng(0)
    for split in ("train", "val"):
        (root / split).mkdir()
        for i in range(4):
            Image.fromarray(rng.integers(0, 256, (60, 80, 3), dtype=np.uint8)).save(root / split / f"{i}.jpg")
            Image.fromarray(rng.integers(1200, 2800, (60, 80), dtype=np.uint16)).save(root / split / f"{i}.png")
    return root


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images of two classes, in one folder each."""
    root, rng = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    for name in ("train/cat", "train/dog", "val/cat", "val/dog"):
        (root / name).mkdir(parents=True)
        for i in range(2):
            Image.fromarray(rng.integers(0, 256, (60, 80, 3), dtype=np.uint8)).save(root / name / f"{i}.jpg")
    return root


@pytest.mark.integration
@pytest.mark.parametrize("path", [*SHIPPED, *PAPERS], ids=lambda path: path.stem)
def test_shipped_config_trains_one_step(path: Path, folder: Path, labelled: Path, measured: Path, photos: Path) -> None:
    config = configs.load(path)
    smaller = ["data.batch_size=2", "data.num_workers=0"]
    if config.data.name == "coco":
        smaller.append(f"data.root={folder}")
    if config.data.name == "label_maps":
        smaller.append(f"data.root={labelled}")
    if config.data.name == "depth":
        smaller.append(f"data.root={measured}")
    if config.data.name == "image_folder":
        smaller.append(f"data.root={photos}")
    config = configs.load(path, smaller)
    configs.check_plugins(config)
    data = build_data(config)
    model = build_model(config, data.classes)
    assert all(name.startswith("backbone.feature_norms.") for name in freeze_unused(model))
    batch = next(iter(data.train_loader()))
    losses = model.loss(model(batch), batch["targets"])
    torch.stack(list(losses.values())).sum().backward()
    for name, parameter in model.named_parameters():
        assert not parameter.requires_grad or parameter.grad is not None, name


def test_variants_in_the_first_lines_are_built() -> None:
    """The tests of these families build each variant and compare its parameters with the paper's."""
    tested = {
        *test_coco_recipes.RECIPES,
        *test_depth_recipes.DEPTH_ANYTHING,
        *test_eomt_recipes.RECIPES.values(),
        *test_mask_recipes.RECIPES,
        *test_rtdetr_recipes.RECIPES,
        *test_segmentation_recipes.RECIPES,
    }
    variants = [recipe for recipe in with_variants(Path("configs").rglob("*.yaml")) if recipe.overrides]
    assert len(variants) > 30 and set(variants) <= tested
    for recipe in variants:
        assert recipe.load() != configs.load(recipe.path), recipe


@pytest.mark.parametrize("recipe", with_variants([*SHIPPED, *PUBLISHED, *START, *PAPERS]), ids=str)
def test_the_evaluation_size_of_every_recipe_is_in_the_header_of_its_files(recipe: Recipe) -> None:
    """`evaluation_bounds` gives `evaluation_size` to within the rounding of the short side times the aspect ratio."""
    transform = build_evaluation_transform(recipe.load().data).transforms
    bounds = transform.evaluation_bounds()
    assert bounds is not None
    for height, width in ((480, 640), (333, 250)):
        sides = {"height": height, "width": width, "short_side": min(height, width), "long_side": max(height, width)}
        scale = min((bound / sides[key] for key, bound in bounds.items() if key in sides), default=1)
        size = (bounds.get("exact_height", round(height * scale)), bounds.get("exact_width", round(width * scale)))
        assert size == pytest.approx(transform.evaluation_size(height, width), abs=2)


@pytest.mark.parametrize(
    "paths",
    [SHIPPED, PUBLISHED, START, PRETRAINING, PAPERS],
    ids=["scenes", "published", "start", "pretraining", "papers"],
)
def test_no_config_searches_for_unused_parameters_in_each_step(paths: list[Path]) -> None:
    """The tests of one training step show for each config that all trained parameters have a gradient."""
    from pytorch_lightning.strategies import DDPStrategy

    from densevit.training.loop.trainer import build_trainer

    for recipe in with_variants(paths):
        section = recipe.load().trainer
        assert section.strategy in ("auto", "ddp"), recipe
        strategy = build_trainer(
            section.model_copy(update={"accelerator": "cpu", "devices": 2, "strategy": "ddp"})
        ).strategy
        assert isinstance(strategy, DDPStrategy), recipe
        assert not strategy._ddp_kwargs.get("find_unused_parameters"), recipe


@pytest.mark.parametrize(
    "section", [path for path in SECTIONS if "\nname: coco\n" in path.read_text()], ids=lambda path: path.stem
)
def test_shipped_data_section_reads_a_folder(section: Path, folder: Path) -> None:
    config = configs.load("configs/detr_swin.yaml", [f"data={section}", f"data.root={folder}", "data.num_workers=0"])
    batch = next(iter(build_data(config).val_loader()))
    assert len(batch["targets"]) == config.data.batch_size
    assert batch["targets"][0]["truth"]["boxes"].shape[1] == 4


@pytest.mark.parametrize("section", ["folder", "label_maps", "depth"])
def test_own_data_is_augmented(section: str) -> None:
    """Also with recipes of rendered scenes, which go without."""
    config = configs.load("configs/scenes/setr_swin.yaml", [f"data=configs/data/{section}.yaml"])
    assert (
        configs.load("configs/scenes/setr_swin.yaml").data.transforms.name == "resize"
        and config.data.transforms.name == "fixed"
    )
