"""Smaller distributions of examples/plugins, installed as by pip: an optimiser, transforms, inspectors and heads."""

import importlib
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

import densevit
from densevit import config as configs
from densevit.cli import main
from densevit.errors import ConfigError
from densevit.interfaces import Class, TokenBackbone
from densevit.testing import check_backbone, check_head
from tests.plugins.test_plugins import run_command
from tests.training.process_groups import Command
from tests.training.runs import assert_same, weights

pytestmark = pytest.mark.integration

PACKAGES = ("lion", "zooms", "tokens")
CLASSES = [Class(f"class {i}", i, (i, i, i)) for i in range(3)]
SCENES = "data: {name: scenes, image_size: 64, batch_size: 2, num_workers: 0, train_length: 8, val_length: 2}"
CONFIG = f"""
seed: 0
backbone: {{name: resnet, depth: 18}}
heads: {{segmentation: {{name: setr}}}}
{SCENES}
optim: {{schedule: constant}}
trainer: {{max_steps: 4, accelerator: cpu, precision: 32}}
"""


@pytest.mark.parametrize(
    ("folder", "group", "overrides", "option"),
    [
        ("lion", "optimizers", ["optim.name=lion", "optim.cautious=true", "optim.betas=[0.5, 0.6]"], "optim.betas"),
        ("zooms", "transforms", ["data.transforms={name: zooms, smallest: 0.3}"], "data.transforms.smallest"),
    ],
)
def test_a_run_with_a_plugin_resumes_to_the_last_bit(
    folder: str, group: str, overrides: list[str], option: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    values = yaml.safe_load(CONFIG)
    whole = densevit.fit(values, overrides, run_dir=tmp_path / "whole")
    parts = densevit.fit(values, [*overrides, "trainer.max_steps=2"], run_dir=tmp_path / "parts")
    densevit.fit(resume=parts.path, overrides=["trainer.max_steps=4"])
    assert_same(weights(whole.path), weights(parts.path))
    key = option.rpartition(".")[2]
    message = rf"{option}x is not an option of '{folder}'\. Did you mean '{key}'"
    with pytest.raises(ConfigError, match=message):
        configs.check_plugins(configs.from_mapping(values, overrides=[*overrides, f"{option}x=1"]))
    capsys.readouterr()
    assert main(["plugins", group, "--json"]) == 0
    listed = {plugin["name"]: plugin["origin"] for plugin in json.loads(capsys.readouterr().out)["plugins"]}
    assert listed[folder] == f"{folder} 0.1"


def test_an_inspector_adds_its_figure(third_party: Callable[[str], Path], tmp_path: Path) -> None:
    """A named one, and one of a class of heads, which needs no name."""
    site = third_party("inspections")
    small = {"width": 32, "num_heads": 2, "encoder_layers": 1, "decoder_layers": 1, "feedforward": 8}
    heads = {"setr": {"name": "setr"}, "deformable": {"name": "deformable_detr", "transformer": small, "num_levels": 2}}
    for name, head in heads.items():
        backbone = {"name": "swin", "variant": "nano", "window_size": 4}
        densevit.save(densevit.create_model(backbone, {"own": head}, CLASSES), tmp_path / f"{name}.safetensors")
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 96, 3), np.uint8)).save(tmp_path / "street.png")

    def files(model: str, *arguments: str) -> set[str]:
        command = ["inspect", f"{model}.safetensors", "street.png", "--out", f"{model}-{len(arguments)}", "--json"]
        return {*json.loads(run_command(*command, *arguments, site=site, cwd=tmp_path))["files"]}

    assert files("setr", "--inspector", "feature_components") - files("setr") == {"components-backbone.png"}
    assert {one for one in files("deformable") if one.startswith("reference")} == {"reference-points-heads.own.png"}
    command = ["inspect", "setr.safetensors", "street.png", "--inspector", "unreadable"]
    ended = Command(*command, folder=tmp_path, path=[site]).ended()
    assert ended.code == 2
    assert ended.errors.startswith("The inspector 'unreadable' (inspections:Missing, from inspections 0.1): ")


# ---- a backbone and a head that share the last blocks, as docs/own-head.md describes ----


def test_heads_run_the_last_blocks_of_a_backbone():
    tokens = importlib.import_module("tokens")
    assert isinstance(tokens.TinyTokens(), TokenBackbone)
    check_backbone(tokens.TinyTokens)
    check_head(tokens.ClassTokens, skip=("padding",))  # padding is attended to
    images, padding = torch.randint(0, 256, (2, 3, 64, 80), dtype=torch.uint8), torch.zeros(2, 64, 80, dtype=torch.bool)
    batch = {"images": images, "padding_mask": padding, "targets": [{}] * 2}

    def logits(backbone: str, **head: object) -> torch.Size:
        model = densevit.create_model({"name": backbone}, {"s": head}, {"s": CLASSES}).train()
        return model(batch)["s"]["logits"].shape

    assert logits("tokens:TinyTokens", name="tokens:ClassTokens") == (2, 3, 4, 5)
    assert logits("vit", name="tokens:ClassTokens") == (2, 3, 4, 5)
    assert logits("tokens:TinyTokens", name="eomt_semantic", num_queries=5, num_blocks=2) == (2, 5, 4)
    with pytest.raises(ConfigError, match=r"runs the backbone's last 3 blocks itself, but backbone TinyTokens lets"):
        logits("tokens:TinyTokens", name="eomt_semantic", num_blocks=3)
