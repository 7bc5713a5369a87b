"""A backbone and a head of somebody else that share the last blocks, as docs/own-head.md describes."""

import sys

import pytest
import torch
import yaml

import densevit
from densevit import config as configs
from densevit.errors import ConfigError
from densevit.interfaces import Class, TokenBackbone
from densevit.testing import check_backbone, check_head
from tests.training.runs import train

CLASSES = [Class(f"class {i}", i, (i, i, i)) for i in range(3)]


@pytest.fixture
def tokens(monkeypatch, project):
    monkeypatch.syspath_prepend(project / "examples" / "plugins" / "tokens")
    import tokens

    yield tokens
    sys.modules.pop("tokens", None)


@pytest.mark.integration
def test_both_meet_their_interfaces(tokens):
    assert isinstance(tokens.TinyTokens(), TokenBackbone)
    check_backbone(tokens.TinyTokens)
    check_head(tokens.ClassTokens, skip=("padding",))  # padding is attended to


def model_of(head, backbone="tokens:TinyTokens"):
    return densevit.create_model({"name": backbone}, heads={"s": {"name": head}}, classes={"s": CLASSES}).model.eval()


def test_the_head_runs_the_blocks_of_the_backbone(tokens):
    for backbone in ("tokens:TinyTokens", "vit"):
        model = model_of("tokens:ClassTokens", backbone)
        images = torch.randint(0, 256, (2, 3, 64, 80), dtype=torch.uint8)
        batch = {"images": images, "padding_mask": torch.zeros(2, 64, 80, dtype=torch.bool), "targets": []}
        assert model(batch)["s"]["logits"].shape == (2, 3, 4, 5)


def test_eomt_runs_on_it(tokens):
    heads = {"s": {"name": "eomt_semantic", "num_queries": 5, "num_blocks": 2}}
    model = densevit.create_model({"name": "tokens:TinyTokens"}, heads=heads, classes={"s": CLASSES}).model.train()
    images = torch.randint(0, 256, (2, 3, 64, 80), dtype=torch.uint8)
    batch = {"images": images, "padding_mask": torch.zeros(2, 64, 80, dtype=torch.bool), "targets": [{}] * 2}
    assert model(batch)["s"]["logits"].shape == (2, 5, 4)


def test_more_blocks_than_it_lets_heads_run_are_an_error(tokens):
    heads = {"s": {"name": "eomt_semantic", "num_blocks": 3}}
    with pytest.raises(ConfigError, match=r"runs the backbone's last 3 blocks itself, but backbone TinyTokens lets"):
        densevit.create_model({"name": "tokens:TinyTokens"}, heads=heads, classes={"s": CLASSES})


@pytest.mark.integration
def test_the_head_is_told_the_progress_of_the_training(tokens, tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(tokens.ClassTokens, "set_progress", lambda self, progress: seen.append(progress))
    text = """
    backbone: {name: "tokens:TinyTokens"}
    heads: {segmentation: {name: "tokens:ClassTokens"}}
    data: {name: scenes, image_size: 32, batch_size: 2, train_length: 8, val_length: 2, num_workers: 0}
    trainer: {max_steps: 4, accelerator: cpu}
    """
    config = configs.from_mapping(yaml.safe_load(text))
    train(config, tmp_path / "run")
    assert seen == [0.0, 0.25, 0.5, 0.75]
