"""`densevit.create_model` and `densevit.create_backbone`."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import densevit
from densevit import config as configs
from densevit.errors import ConfigError, DensevitError, PluginError
from densevit.interfaces import Class

RESNET = {"name": "resnet", "depth": 18}
SETR = {"name": "setr", "decoder": "naive", "width": 8}
IMAGE = np.random.default_rng(0).integers(0, 256, (64, 96, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def resnet() -> nn.Module:
    """torchvision's ResNet-18 with random weights, without its classifier."""
    import torchvision

    resnet = torchvision.models.resnet18()
    resnet.fc = nn.Identity()
    return resnet


@pytest.fixture
def file(resnet: nn.Module, tmp_path: Path) -> str:
    torch.save(resnet.state_dict(), tmp_path / "r18.pth")
    return str(tmp_path / "r18.pth")


def is_of(backbone: nn.Module, resnet: nn.Module) -> bool:
    """Whether a backbone has the tensors of torchvision's network, whose names are the same."""
    theirs = resnet.state_dict()
    return all(torch.equal(value, theirs[name]) for name, value in backbone.state_dict().items())


def test_names_and_sections_build_a_model():
    predictor = densevit.create_model(
        RESNET,
        heads={
            "seg": "setr",
            "depth": {"name": "dpt", "width": 16},
            "boxes": {"name": "detr", "transformer": {"width": 32}},
        },
        classes={"seg": ["road", "sky"], "detection": [Class("cat", 17, (1, 2, 3))]},
    )
    assert predictor.config is None and predictor.training
    assert [c.name for c in predictor.classes["seg"]] == ["road", "sky"] and predictor.classes["depth"] == ()
    assert predictor.classes["seg"][0].color != predictor.classes["seg"][1].color
    assert predictor.classes["boxes"] == (Class("cat", 17, (1, 2, 3)),)
    assert predictor.sections.heads["depth"].options == {"width": 16}
    assert predictor.backbone.channels == (64, 128, 256, 512)
    result = predictor.predict(IMAGE)
    assert result.semantic.shape == (64, 96) and set(result.names) <= {"cat"}


def test_weights_of_a_backbone_and_of_a_whole_model(file: str, resnet: nn.Module, tmp_path: Path):
    assert is_of(densevit.create_backbone("resnet", weights=file, depth=18), resnet)
    with pytest.raises(DensevitError, match=r"not the model's|another shape|missing"):
        densevit.create_backbone("resnet", weights=file, depth=50)
    first = densevit.create_model(RESNET, {"seg": SETR}, ["a", "b"], weights=file)
    assert is_of(first.backbone, resnet) and first.sections.backbone.weights == file
    densevit.save(first, tmp_path / "whole.safetensors")
    other = densevit.create_model(RESNET, {"seg": SETR}, ["a", "b"], weights=tmp_path / "whole.safetensors")
    assert torch.equal(other.predict(IMAGE).semantic, first.predict(IMAGE).semantic)
    state = other.state_dict()
    assert all(torch.equal(state[name], value) for name, value in first.state_dict().items())
    assert not is_of(densevit.create_model(RESNET, {"seg": SETR}, ["a", "b"]).backbone, resnet)


@pytest.mark.parametrize("pretrained", [True, False])
def test_a_config_s_weights_are_loaded_unless_told_not_to(
    file: str, resnet: nn.Module, tmp_path: Path, pretrained: bool
):
    text = f"backbone: {{name: resnet, depth: 18, weights: {file}}}\n"
    text += "heads: {segmentation: {name: setr, decoder: naive, width: 8}}\n"
    path = tmp_path / "mine.yaml"
    path.write_text(text + "data: {name: scenes, image_size: 48}\ntrainer: {max_steps: 1}\n")
    predictor = densevit.create_model(str(path), pretrained=pretrained)
    assert is_of(predictor.backbone, resnet) == pretrained and predictor.config == configs.load(path)
    assert predictor.classes["segmentation"] == densevit.build_data(predictor.config).classes["segmentation"]
    config = configs.with_overrides(configs.load(path), ["backbone.weights=nowhere.pth"])
    given = densevit.create_model(config, classes=["a"], weights=file)  # in place of the config's
    assert is_of(given.backbone, resnet)
    assert given.config.backbone.weights == file and config.backbone.weights == "nowhere.pth"


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"backbone": "resnet"}, ConfigError, "create_model: a backbone without heads. Expected heads="),
        ({"backbone": "resnet", "heads": {"a": "setr"}}, PluginError, "heads.a: 'setr' .* has no classes"),
        (
            {"backbone": "resnet", "heads": {"a": "setr", "b": "setr"}, "classes": ["x"]},
            ConfigError,
            r"a list of classes for 2 heads. Expected classes by head: classes=\{'a': \[...\], 'b': \[...\]\}",
        ),
        (
            {"backbone": "resnet", "heads": {"seg": "setr"}, "classes": {"sg": ["x"]}},
            ConfigError,
            "classes has the key 'sg', which is not a head. Did you mean 'seg'",
        ),
    ],
)
def test_a_wrong_argument_is_an_error_that_names_it(options: Any, error: type[Exception], message: str):
    with pytest.raises(error, match=message):
        densevit.create_model(**options)
