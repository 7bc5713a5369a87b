"""docs/choose-a-model.md has what a training step of each backbone with each head shows."""

import pytest

import densevit
from tests.heads.backbones_and_heads import BACKBONES, BEGIN, END, NECK, PAGE, YES, outcome, tables, walk


def test_every_backbone_is_walked() -> None:
    learned = set(densevit.list_plugins("backbones")) - {"pixels"}
    assert {plugin for plugin, _ in BACKBONES.values()} == learned


@pytest.mark.integration
def test_heads_that_do_not_take_every_backbone() -> None:
    """The other rows are `yes` throughout, on the page, which the slow test walks."""
    for head, backbone, expected in (
        ("upernet", "`swin`", YES),
        ("upernet", "`vit`", NECK),
        ("eomt", "`vit`", YES),
        ("eomt", "`swin`", "last 2 blocks"),
        ("eomt", "`windowed_vit`", "windows"),
        ("mask2former", "timm's ViT", YES),
        ("dfine", "timm's ViT with patches of 14", YES),
        ("gtr_instance", "timm's ViT with patches of 14", "mask_stride is 4"),
    ):
        found = outcome(backbone, head)
        assert found == expected or (expected not in (YES, NECK) and expected in found), (head, backbone)


@pytest.mark.slow
def test_the_page_has_the_walk() -> None:
    page = PAGE.read_text()
    assert page[page.index(BEGIN) + len(BEGIN) : page.index(END)].strip() == tables(walk())
