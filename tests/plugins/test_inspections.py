"""Inspectors of a third-party distribution, installed as by pip: `densevit inspect` runs them."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import densevit
from tests.plugins.test_plugins import run_command
from tests.training.process_groups import Command

pytestmark = pytest.mark.integration

CLASSES = [densevit.Class("cat", 1, (200, 0, 0))]
SMALL = {"width": 32, "num_heads": 2, "encoder_layers": 1, "decoder_layers": 1, "feedforward": 8}


@pytest.fixture(scope="module")
def site(third_party: Callable[[str], Path]) -> Path:
    return third_party("inspections")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Has `setr.safetensors`, `deformable.safetensors` and `street.png`."""
    heads = {"setr": {"name": "setr"}, "deformable": {"name": "deformable_detr", "transformer": SMALL, "num_levels": 2}}
    for name, head in heads.items():
        backbone = {"name": "swin", "variant": "nano", "window_size": 4}
        densevit.save(densevit.create_model(backbone, {"own": head}, CLASSES), tmp_path / f"{name}.safetensors")
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 96, 3), dtype=np.uint8)).save(
        tmp_path / "street.png"
    )
    return tmp_path


def test_plugins_command_lists_them(site: Path, tmp_path: Path) -> None:
    printed = " ".join(run_command("plugins", "inspectors", site=site, cwd=tmp_path).split())
    assert "feature_components inspections 0.1 The first three principal components of a backbone's features" in printed
    assert "densevit_heads.deformable_detr.head.DeformableDetr inspections 0.1 The points around which the" in printed
    assert "inspectors densevit_backbones.swin.backbone.Swin densevit 0." in printed


def test_a_named_one_adds_its_figure_and_that_of_a_class_needs_no_name(site: Path, folder: Path) -> None:
    def files(model: str, *arguments: str) -> set[str]:
        command = ["inspect", f"{model}.safetensors", "street.png", "--out", f"{model}-{len(arguments)}", "--json"]
        return {*json.loads(run_command(*command, *arguments, site=site, cwd=folder))["files"]}

    plain = files("setr")
    assert files("setr", "--inspector", "feature_components") - plain == {"components-backbone.png"}
    assert {one for one in files("deformable") if one.startswith("reference")} == {"reference-points-heads.own.png"}
    done = Command("inspect", "setr.safetensors", "street.png", "--inspector", "unreadable", folder=folder, path=[site])
    ended = done.ended()
    assert ended.code == 2
    assert ended.errors.startswith("The inspector 'unreadable' (inspections:Missing, from inspections 0.1): ")
