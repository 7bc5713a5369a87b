"""Published weights that commands of the pages, examples and recipes name fit the backbone of their recipe."""

import re
import shlex
from pathlib import Path

import pytest
from torch import Tensor

import densevit
from densevit import config as configs
from densevit.weights.hub import Published

PROJECT = Path(__file__).resolve().parents[2]
SOURCE = re.compile(r"backbone\.weights=((?:timm|torchvision):[\w./-]+)")
COMMAND = re.compile(r"densevit train (?:[^`\n]|\\\n)*")


def files() -> list[Path]:
    pages = [PROJECT / "README.md", *(PROJECT / "docs").rglob("*.md"), *(PROJECT / "examples").glob("*.py")]
    return sorted([*pages, *(PROJECT / "configs").rglob("*.yaml")])


def named() -> dict[str, tuple[str, list[str], str]]:
    """The recipe, the overrides of its backbone and the weights, by the backbone's section and the weights."""
    found: dict[str, tuple[str, list[str], str]] = {}
    for command in (command for path in files() for command in COMMAND.findall(path.read_text())):
        source = SOURCE.search(command)
        if source is not None:
            _, _, recipe, *overrides = shlex.split(re.sub(r"\\\n#?", " ", command), comments=True)
            overrides = [one for one in overrides if one.startswith("backbone")]
            section = configs.load(str(recipe), overrides).backbone
            found.setdefault(section.model_dump_json(), (recipe, overrides, source[1]))
    return found


def published(source: str) -> dict[str, Tensor]:
    """Random weights with the shapes of published ones."""
    kind, _, name = source.partition(":")
    if kind == "timm":
        timm = pytest.importorskip("timm")
        return dict(timm.create_model(name).state_dict())
    from torchvision import models

    return dict(models.get_model(name.partition("/")[0]).state_dict())


NAMED = named()


def test_pages_name_published_weights_in_commands() -> None:
    """Without the recipe, a reader takes any, whose backbone may have other shapes."""
    assert len(NAMED) >= 2
    pages = [path for path in files() if path.suffix != ".yaml"]
    assert [path.name for path in pages if SOURCE.search(COMMAND.sub("", path.read_text()))] == []


@pytest.mark.parametrize(("recipe", "overrides", "source"), NAMED.values(), ids=[one[0] for one in NAMED.values()])
def test_named_weights_fit(recipe: str, overrides: list[str], source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    state = published(source)
    monkeypatch.setattr("densevit.weights.hub.fetch", lambda source, instead="": Published(state, {}))
    section = configs.load(recipe, overrides).backbone
    densevit.create_backbone(section.name, weights=source, **section.options)
