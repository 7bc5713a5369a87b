"""Published trainings of SETR: each builds its full model, and trains one step on generated files of its layout."""

import json
from pathlib import Path

import pytest
import torch

from densevit import config as configs
from densevit.config import Config
from densevit.data.build import build_data
from densevit.weights.label_sets import segmentation_classes
from tests.configs.generated import make_label_maps
from tests.configs.published import count, full_model, one_step
from tests.training.runs import train

pytestmark = pytest.mark.integration

RECIPES = sorted(Path("configs/ade20k").glob("setr*.yaml")) + sorted(Path("configs/cityscapes").glob("setr*.yaml"))
SECTIONS = ("ade20k", "camvid", "cityscapes", "coco_stuff", "label_maps", "pascal_context", "voc")

HEADS = {
    "naive": (1028, 1_058_816),
    "pup": (1285, 15_941_632),
    "mla": (1541, 5_191_680),
}  # parameters for each class and of the rest, by hand


def name(path: Path) -> str:
    return f"{path.parent.name}-{path.stem}"


SMALLER = (
    "backbone.variant=nano",
    "heads.segmentation.width=32",
    "data.num_workers=0",
    "trainer.accelerator=cpu",
    "trainer.precision=32",
)


@pytest.mark.parametrize("path", RECIPES[::2], ids=name)
def test_narrower_recipe_trains_one_step_at_the_published_crop(path: Path, tmp_path: Path) -> None:
    root = make_label_maps(path.parent.name, tmp_path, (256, 384))
    features = "[1, 2, 3, 6]" if "mla" in path.stem else "[2, 4, 5, 6]"
    config = configs.load(path, [*SMALLER, f"data.root={root}", f"backbone.features={features}", "data.batch_size=1"])
    step = one_step(config)
    crop = {"ade20k": 512, "cityscapes": 768}[path.parent.name]
    assert step.batch["images"].shape == (1, 3, crop, crop)
    assert set(step.losses) == {"segmentation/cross_entropy", "segmentation/auxiliary"}
    for part in ("backbone.blocks.0.mlp.expand.weight", "heads.segmentation.decode.classifier.weight"):
        parameter, rate = dict(step.model.named_parameters())[part], _rate(config, part)
        torch.testing.assert_close(parameter.detach(), step.before[part] - rate * parameter.grad)  # no decay


def _rate(config: Config, part: str) -> float:
    """As in the paper: 0.001 on ADE20K and 0.01 on Cityscapes for the backbone; ten times that for the head."""
    rate = config.optim.backbone_lr if part.startswith("backbone") else config.optim.lr
    assert rate is not None
    return rate


@pytest.mark.parametrize("path", RECIPES, ids=name)
def test_recipe_matches_the_published_one(path: Path) -> None:
    """Zheng et al. 2021, section 4.1; the learning rates and windows are those of the authors' configs."""
    config = configs.load(path)
    K, grid = {"ade20k": (150, 32), "cityscapes": (19, 48)}[path.parent.name]
    model = full_model(config, {"segmentation": segmentation_classes(K)})
    block = 12 * 1024**2 + 13 * 1024  # four and eight squares of the width, biases, and two norms
    vit = 24 * block + (3 * 16 * 16 + 1) * 1024 + (grid**2 + 1) * 1024  # patches; one position per cell, a class token
    assert count(model.backbone) == vit  # without its final norm
    classifiers, rest = HEADS[path.stem.split("_")[1]]
    assert count(model.heads) == classifiers * K + rest
    ade = path.parent.name == "ade20k"
    decoder = config.heads["segmentation"].options["decoder"]
    auxiliary = config.heads["segmentation"].options["auxiliary"]
    blocks = config.backbone.options["features"]
    assert decoder == path.stem.split("_")[1]
    assert [blocks[i - 1] for i in auxiliary] == {
        "naive": [10, 15, 20],
        "pup": [10, 15, 20, 24],
        "mla": [6, 12, 18, 24],
    }[decoder]
    assert blocks[-1] == 24
    optim, trainer, data = config.optim, config.trainer, config.data
    rates = {"naive": 0.01, "pup": 0.001, "mla": 0.001} if ade else {"naive": 0.01, "pup": 0.01, "mla": 0.002}
    assert (optim.name, optim.options, optim.weight_decay, optim.schedule) == ("sgd", {}, 0.0, "poly")
    assert optim.lr is not None and (optim.backbone_lr, optim.lr) == pytest.approx(
        (rates[decoder], 10 * rates[decoder])
    )
    assert optim.lr * optim.min_lr_ratio == pytest.approx(1e-4)
    assert (data.batch_size, trainer.max_steps, trainer.devices) == ((16, 160_000, 1) if ade else (8, 80_000, 1))
    assert (data.transforms.name, data.image_size, data.transforms.options["short_side"]) == (
        ("crop", 512, 512) if ade else ("crop", 768, None)
    )
    assert data.transforms.options["scales"] == [0.5, 2.0]
    assert (config.inference.window, config.inference.stride) == ((512, 341) if ade else (768, 512))


@pytest.mark.parametrize("section", SECTIONS)
def test_data_section_reads_its_official_layout(section: str, tmp_path: Path) -> None:
    root = make_label_maps(section, tmp_path, (30, 45))
    overrides = [f"data=configs/data/{section}.yaml", f"data.root={root}", "data.num_workers=0", "data.batch_size=2"]
    if section == "label_maps":
        overrides.append("data.classes=[road, tree, car]")
    config = configs.load("configs/scenes/setr_swin.yaml", overrides)
    configs.check_plugins(config)
    data = build_data(config)
    for batch in (next(iter(data.train_loader())), next(iter(data.val_loader()))):
        assert len(batch["targets"]) == 2
        for target in batch["targets"]:
            K = len(data.classes["segmentation"])
            assert set(target["semantic"].unique().tolist()) <= {*range(K), 255}
    assert batch["targets"][0]["truth"]["semantic"].shape == (30, 45)


def test_all_label_map_sections_are_tested() -> None:
    found = {file.stem for file in Path("configs/data").glob("*.yaml") if "\nname: label_maps\n" in file.read_text()}
    assert found == set(SECTIONS)


def test_small_recipe_trains_validates_in_windows_and_writes_a_run_folder(tmp_path: Path) -> None:
    path = "configs/ade20k/setr_pup_vit_large.yaml"
    root = make_label_maps(Path(path).parent.name, tmp_path / "data", (80, 120))
    smaller = [
        "data.image_size=64",
        "inference.window=64",
        "inference.stride=40",
        "data.batch_size=2",
        "trainer.max_steps=1",
    ]
    run = train(
        configs.load(path, [*SMALLER, *smaller, f"data.root={root}", "backbone.features=[2, 4, 5, 6]"]),
        tmp_path / "run",
    )
    metrics = json.loads((run / "metrics.json").read_text())
    assert 0 <= metrics["segmentation/mIoU"] <= 1
    assert len(list((run / "predictions").glob("*.jpg"))) == 2
