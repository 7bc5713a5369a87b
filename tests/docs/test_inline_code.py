"""Commands, flags, overrides, keys, paths and recipes in the text of pages and configs exist."""

import re
from collections.abc import Sequence
from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from densevit.config import layer_reading, yaml_io
from densevit.config.yaml_io import shipped_configs
from tests.docs.code_blocks import pages
from tests.docs.inline_code import Inline, of_comments, of_file, of_page
from tests.docs.resolution import Resolver

PROJECT = Path(__file__).resolve().parents[2]
# What is checked in one item: a page, the comments of a folder of configs.
CHECKED = {path.relative_to(PROJECT).as_posix(): (path.relative_to(PROJECT).as_posix(),) for path in pages(PROJECT)} | {
    "configs": ("configs/*.yaml",),
    **{
        f"configs/{path.name}": (f"configs/{path.name}/*.yaml",)
        for path in sorted((PROJECT / "configs").glob("[a-z]*/"))
    },
}


@pytest.fixture(autouse=True)
def shipped(monkeypatch: pytest.MonkeyPatch) -> None:
    """The shipped configs are listed and parsed once."""
    monkeypatch.setattr(yaml_io, "shipped_configs", all_shipped)
    monkeypatch.setattr(layer_reading, "read_file", lambda path: deepcopy(parsed(path, path.stat().st_mtime_ns)))


@cache
def all_shipped() -> dict[str, Path]:
    return {name: file.resolve() for name, file in shipped_configs().items()}


@cache
def parsed(path: Path, changed: int) -> dict[str, Any]:
    return yaml_io.read_file(path.absolute())


def faults(found: Sequence[Inline], resolver: Resolver) -> list[str]:
    wrong = []
    for one in found:
        try:
            resolver.check(one)
        except AssertionError as error:
            wrong.append(str(error))
    return wrong


@pytest.mark.parametrize("name", CHECKED)
def test_commands_keys_and_paths_exist(name: str) -> None:
    wrong = list[str]()
    for path in (path for pattern in CHECKED[name] for path in sorted(PROJECT.glob(pattern))):
        file = path.relative_to(PROJECT).as_posix()
        wrong += faults(of_file(file, PROJECT), Resolver(PROJECT))
    assert not wrong, "\n".join(wrong)


def test_start_recipes_take_data_in_one_form() -> None:
    """`data=FOLDER`, on users' pages and in the recipes' first lines."""
    users = [path for path in pages(PROJECT) if "development" not in path.parts]
    texts = [path.read_text().replace("\\\n", "") for path in (*users, *PROJECT.glob("configs/start/*.yaml"))]
    commands = [command for text in texts for command in re.findall(r"densevit train start/[^`\n]+", text)]
    assert len(commands) > 40
    assert not [one for one in commands if re.search(r" data(\.root=|=(folder|label_maps|depth)\b)", one)]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("`scenes/nonesuch`", "there is no recipe scenes/nonesuch"),
        ("| command |\n|---|\n| `train scenes/setr_swin seed=first`, 3 images |", "seed should be"),
        ("`train\nsetr_vit backbone.window_sise=7`", "backbone.window_sise is not an option of 'vit'"),
        ("`densevit export MODEL [--nonesuch FILE]`", "there is no flag --nonesuch"),
        ("`python tools/benchmarks/gpu.py --nonesuch 1`", "there is no flag --nonesuch"),
        ("`tests/docs/world.py::nonesuch`", "tests/docs/world.py has no nonesuch"),
        ("`densevit train paper/cocoa data.root=~/coco`", "there is no config file 'paper/cocoa'"),
        ("`densevit probe swin_tinny --protocol quick`", "swin_tinny"),
        ("`sbatch examples/nonesuch.sbatch paper/coco`", "there is no examples/nonesuch.sbatch"),
        ("`heads.detection.num_queries=many`", "heads.detection.num_queries should be"),
    ],
)
def test_a_fault_in_a_page_is_found(text: str, said: str) -> None:
    [wrong] = faults([*of_page("p.md", text)], Resolver(PROJECT))
    assert re.match(r"p\.md:[13]: ", wrong) and said in wrong


def test_a_fault_in_comments_of_a_recipe_is_found() -> None:
    [wrong] = faults([*of_comments("r.yaml", "# With backbone.variant=b9: mIoU 0.494.")], Resolver(PROJECT))
    assert wrong.startswith("r.yaml:1: ") and "backbone.variant" in wrong
