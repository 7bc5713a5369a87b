"""The models of all commands on pages are built; tests/docs/test_code_blocks.py builds and runs those of blocks."""

import re

import pytest

from densevit import config
from tests.docs.built import build
from tests.docs.inline_code import Inline, of_file
from tests.docs.resolution import Resolver
from tests.docs.test_code_blocks import PAGES, PROJECT

pytestmark = pytest.mark.integration


@pytest.mark.parametrize("name", PAGES)
def test_inline_commands_of_the_page_build_their_models(name: str) -> None:
    for code in of_file(name, PROJECT):
        Resolver(PROJECT, build).check(code)


@pytest.mark.parametrize("recipe", ["detector", "instances", "panoptic", "semantic", "depth", "classifier"])
def test_start_recipes_take_the_backbones_of_the_page(recipe: str) -> None:
    """DINOv2's and DINOv3's ViTs too, without a neck."""
    table = (PROJECT / "docs/fine-tuning.md").read_text().partition("| `backbone=` |")[2].partition("\n\n")[0]
    backbones = [
        name for row in re.findall(r"^\| (`.*?) \|", table, re.MULTILINE) for name in re.findall(r"`(\w+)`", row)
    ]
    assert len(backbones) >= 7
    for backbone in backbones:
        build(config.load(f"start/{recipe}", [f"backbone={backbone}"]))


def test_a_command_whose_parts_do_not_fit_is_found() -> None:
    code = Inline("p.md", 1, "start/semantic backbone=dinov2_small 'heads.segmentation={name: upernet}'")
    with pytest.raises(AssertionError, match=r"p\.md:1: .*upernet"):
        Resolver(PROJECT, build).check(code)
