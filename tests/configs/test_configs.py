"""Every shipped config loads; those of scenes and papers build their models and train one step."""

import re
from pathlib import Path

import pytest

from densevit import config as configs
from densevit.cli import main
from densevit.data.data_builder import build_data
from densevit.errors import ConfigError
from densevit.training.run.config_checks import check_frozen
from tests.configs.published import Recipe, one_step, with_variants

SHIPPED = sorted([*Path("configs").glob("*.yaml"), *Path("configs/scenes").glob("*.yaml")])
SECTIONS = sorted(Path("configs/data").glob("*.yaml"))
PUBLISHED = sorted(
    path
    for path in Path("configs").glob("*/*.yaml")
    if path not in SECTIONS
    and path.parent.name not in ("benchmark", "backbone", "start", "scenes", "pretrain", "papers", "probe")
)  # test_published.py and test_steps.py build them
START = sorted(Path("configs/start").glob("*.yaml"))  # test_start_recipes.py runs them
PAPERS = sorted(Path("configs/papers").glob("*.yaml"))
PRETRAINING = sorted(Path("configs/pretrain").glob("*.yaml"))


@pytest.mark.integration
@pytest.mark.parametrize("path", [*SHIPPED, *PAPERS], ids=lambda path: path.stem)
def test_shipped_config_trains_one_step(path: Path, request: pytest.FixtureRequest) -> None:
    roots = {"coco": "objects", "label_maps": "labelled", "depth": "measured", "image_folder": "photos"}
    name = configs.load(path).data.name
    root = [f"data.root={request.getfixturevalue(roots[name])}"] if name in roots else []
    size = [] if path in PAPERS else ["data.image_size=96"]
    one_step(configs.load(path, ["data.batch_size=2", "data.num_workers=0", *size, *root]))


@pytest.mark.integration
@pytest.mark.parametrize("path", PRETRAINING, ids=lambda path: path.stem)
def test_pretrained_backbone_fits_the_detector_that_the_header_names(path: Path) -> None:
    config = configs.load(path, ["data.batch_size=2", "data.num_workers=0"])
    one_step(config)
    named = re.search(r"densevit train (configs/[\w/]+\.yaml) backbone\.weights=", path.read_text())
    assert named is not None and configs.load(named[1]).backbone == config.backbone


def test_shipped_data_sections_read_a_folder(objects: Path) -> None:
    sections = [path for path in SECTIONS if "\nname: coco\n" in path.read_text()]
    assert sections
    for section in sections:
        overrides = [f"data={section}", f"data.root={objects}", "data.num_workers=0", "data.batch_size=2"]
        batch = next(iter(build_data(configs.load("configs/detr_swin.yaml", overrides)).val_loader()))
        assert [target["truth"]["boxes"].shape[1] for target in batch["targets"]] == [4, 4], section


def test_own_data_is_augmented() -> None:
    """Also with recipes of rendered scenes, which go without."""
    assert configs.load("configs/scenes/setr_swin.yaml").data.transforms.name == "resize"
    for section in ("folder", "label_maps", "depth"):
        config = configs.load("configs/scenes/setr_swin.yaml", [f"data=configs/data/{section}.yaml"])
        assert config.data.transforms.name == "default", section


DOWNLOADED = (  # no source names their weights
    *("coco/detr_panoptic_r50", "coco/dfine_l", "coco/dfine_x", "coco/rtdetr_r50", "coco/rtdetrv2_r50"),
    *("coco/pmt_large_panoptic", "coco/pmt_large_instance", "ade20k/pmt_large", "camvid_naf"),
)


@pytest.mark.integration
def test_recipes_with_frozen_layers_name_their_weights() -> None:
    """Those whose weights are a file to be downloaded, or a run, are an error without it."""
    without = set()
    for recipe in with_variants([*SHIPPED, *PUBLISHED, *START, *PRETRAINING, *PAPERS]):
        try:
            check_frozen(recipe.load())
        except ConfigError as error:
            assert "backbone.weights=random" in str(error)
            without.add(str(recipe).split()[0].removeprefix("configs/"))
    assert without == set(DOWNLOADED)
    for name in DOWNLOADED:
        assert re.search(r"[ .]weights=|FILE", Path(f"configs/{name}.yaml").read_text()), name


def test_several_devices_keep_the_images_of_a_step(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A published recipe is for one device; `densevit config` has the overrides for eight."""
    monkeypatch.setattr(configs, "check_plugins", lambda _: None)  # the tokenizer of BEiT is the reader's
    for path in PUBLISHED:
        config = Recipe(path).load()
        if path.stem == "moco_v3_vit_base":  # compares the images of all devices
            continue
        assert config.trainer.devices == 1, path
        assert main(["config", str(path), "trainer.devices=8"]) == 0
        fact = capsys.readouterr().out.splitlines()[-1]
        size, accumulate = (int(number) for number in re.findall(r"(?:batch_size|accumulate)=(\d+)", fact))
        assert 8 * size * accumulate == config.data.batch_size * config.trainer.accumulate, path
