"""Every shipped config is what it says: it loads, builds its real model and takes a step."""

from pathlib import Path

import pytest
import torch

from densevit import config as configs
from densevit.data.build import build_data
from densevit.data.rendering.files import write_split
from densevit.data.scenes import Scenes
from densevit.model import build_model
from densevit.training.unused import freeze_unused

SHIPPED = sorted(Path("configs").glob("*.yaml"))


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


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_a_shipped_config_takes_a_step(path: Path, folder: Path) -> None:
    config = configs.load(path)
    smaller = ["data.batch_size=2", "data.num_workers=0"]
    if config.data.name == "coco":
        smaller.append(f"data.root={folder}")
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


@pytest.mark.parametrize("section", sorted(Path("configs/data").glob("*.yaml")), ids=lambda path: path.stem)
def test_a_shipped_data_section_reads_a_folder(section: Path, folder: Path) -> None:
    config = configs.load("configs/detr_swin.yaml", [f"data={section}", f"data.root={folder}", "data.num_workers=0"])
    batch = next(iter(build_data(config).val_loader()))
    assert len(batch["targets"]) == config.data.batch_size
    assert batch["targets"][0]["truth"]["boxes"].shape[1] == 4


def test_each_config_says_at_its_top_what_it_costs_and_scores() -> None:
    for path in SHIPPED:
        first = [line for line in path.read_text().splitlines() if line.startswith("#")]
        assert any(("AP" in line or "mIoU" in line) and "min" in line for line in first), path
