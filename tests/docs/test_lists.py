"""Lists of pages have what is registered or declared, and each page says how to install."""

import configparser
import re
from pathlib import Path

import pytest
from pydantic import BaseModel

from densevit import cli, registry
from densevit.config import Config, yaml_io
from densevit.config.data_schema import DataSection
from densevit.config.model_schema import BackboneSection, HeadSection, InferenceSection
from densevit.config.training_schema import OptimSection, TrainerSection
from tests.docs.test_code_blocks import PAGES, PROJECT, run_blocks

DOCS = PROJECT / "docs"


def first_cells(page: Path) -> set[str]:
    """The inline code in the first cells of a page's tables."""
    rows = re.findall(r"^\| (.+?) \|", page.read_text(), re.MULTILINE)
    return {code for cell in rows for code in re.findall(r"`([^`]+)`", cell)}


def test_commands_page_has_the_commands() -> None:
    """With the kinds of plugins that `new` and `check` take."""
    expected = set[str]()
    for name in registry.find("commands"):
        kinds = [action.choices for action in cli.command(name)[1]._actions if action.dest == "kind"]
        expected |= {f"{name} {kind}" for kind in kinds[0] or ()} if kinds else {name}
    codes = {
        " ".join(re.findall(r"^[a-z]+|(?<= )[a-z]+$|(?<= )[a-z]+(?= )", code))
        for code in first_cells(DOCS / "commands.md")
    }
    assert codes - {""} == expected


@pytest.mark.parametrize("group", ["data", "predictions"])
def test_help_of_a_group_has_its_commands(group: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([group, "--help"]) == 0
    listed = re.findall(rf"^  ({group} \w+)  ", capsys.readouterr().out, re.MULTILINE)
    assert listed == [name for name in registry.find("commands") if name.startswith(f"{group} ")]


def test_install_page_has_the_extras() -> None:
    parser = configparser.ConfigParser()
    parser.read(PROJECT / "setup.cfg")
    assert first_cells(DOCS / "install.md") == set(parser["options.extras_require"])


def test_pages_with_commands_link_the_install_page() -> None:
    """And no page installs densevit from an index, which does not have it."""
    pages = {name: (PROJECT / name).read_text() for name in PAGES if "development" not in name}
    commands = [name for name in pages if any(block.language == "bash" for block in run_blocks(name))]
    assert not [name for name in commands if "install.md" not in pages[name] and name != "docs/install.md"]
    assert not [name for name, text in pages.items() if re.search(r"pip install '?densevit\b(?! @)", text)]


SECTIONS: dict[str, type[BaseModel]] = {
    "At the top": Config,
    "backbone": BackboneSection,
    "heads.NAME": HeadSection,
    "data": DataSection,
    "optim": OptimSection,
    "trainer": TrainerSection,
    "inference": InferenceSection,
}
DERIVED = ("evaluation", "lr")  # defaults that depend on other keys


@pytest.mark.parametrize("section", SECTIONS)
def test_config_page_has_the_defaults(section: str) -> None:
    text = (DOCS / "config.md").read_text().partition(f"### {section}\n")[2].partition("\n##")[0]
    rows = re.findall(r"^\| (`[^|]+) \|([^|]*)\|", text, re.MULTILINE)
    assert rows
    for keys, cell in rows:
        written = yaml_io.parse(f"[{cell.replace('`', '')}]", "config.md")
        for key, value in zip(
            re.findall(r"`(\w+)`", keys), written * 4 if len(written) == 1 else written, strict=False
        ):
            default = SECTIONS[section].model_fields[key].get_default(call_default_factory=True)
            default = getattr(default, "name", default)
            assert key in DERIVED or value == (list(default) if isinstance(default, tuple) else default), key
