"""Lists of pages have what is registered or declared."""

import configparser
import re
from pathlib import Path

import pytest
from pydantic import BaseModel

import densevit
from densevit import cli, config, registry
from densevit.config import Config, yaml_io
from densevit.config.data_schema import DataSection
from densevit.config.model_schema import BackboneSection, HeadSection, InferenceSection
from densevit.config.training_schema import OptimSection, TrainerSection
from densevit.errors import ConfigError
from densevit.layouts import find
from tests.docs.test_code_blocks import PROJECT

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


def test_commands_page_has_the_flags_of_every_command() -> None:
    table = (DOCS / "commands.md").read_text().partition("| flag of every command |")[2].partition("\n\n")[0]
    flags = {*re.findall(r"^\| `(--[a-z]+)`", table, re.MULTILINE)}
    assert flags and all(flags <= {*cli.command(name)[1]._option_string_actions} for name in registry.find("commands"))


def test_install_page_has_the_extras() -> None:
    """With the Python versions from which they install anything."""
    parser = configparser.ConfigParser()
    parser.read(PROJECT / "setup.cfg")
    extras = parser["options.extras_require"]
    assert first_cells(DOCS / "install.md") == set(extras)
    text = (DOCS / "install.md").read_text()
    for extra, packages in extras.items():
        if version := re.search(r"python_version >= .([\d.]+)", packages):
            assert re.search(rf"^\|.*`{extra}`.*Python {version[1]}", text, re.MULTILINE), extra


SECTIONS: dict[str, type[BaseModel]] = {
    "At the top": Config,
    "backbone": BackboneSection,
    "heads.NAME": HeadSection,
    "data": DataSection,
    "optim": OptimSection,
    "trainer": TrainerSection,
    "inference": InferenceSection,
}
DERIVED = ("evaluation", "evaluations", "lr")  # defaults that depend on other keys


@pytest.mark.parametrize("section", SECTIONS)
def test_config_page_has_the_defaults(section: str) -> None:
    text = (DOCS / "config.md").read_text().partition(f"### {section}\n")[2].partition("\n##")[0]
    rows = re.findall(r"^\| (`[^|]+) \|([^|]*)\|", text, re.MULTILINE)
    fields = SECTIONS[section].model_fields
    assert fields.keys() - {*re.findall(r"`(\w+)`", " ".join(keys for keys, _ in rows))} <= {"name", *SECTIONS}
    for keys, cell in rows:
        written = yaml_io.parse(f"[{cell.replace('`', '')}]", "config.md")
        for key, value in zip(
            re.findall(r"`(\w+)`", keys), written * 4 if len(written) == 1 else written, strict=False
        ):
            default = fields[key].get_default(call_default_factory=True)
            default = getattr(default, "name", default)
            assert key in DERIVED or value == (list(default) if isinstance(default, tuple) else default), key


def test_keys_of_ultralytics_name_those_of_the_page() -> None:
    """On the command line; rows of commands have none."""
    table = (DOCS / "from-other-libraries.md").read_text().partition("## Words")[2]
    rows = re.findall(r"^\| `(\w+)[`=].*\| ([^|]+) \|$", table, re.MULTILINE)
    ours = {key: re.findall(r"`((?:trainer|data|optim|backbone)\.\w+|weights)", cell) for key, cell in rows}
    assert {"epochs", "imgsz", "batch", "lr0", "device", "workers", "freeze"} <= {key for key in ours if ours[key]}
    for key in filter(ours.get, ours):
        with pytest.raises(ConfigError, match=rf"{key} is not a key\. Did you mean '({'|'.join(ours[key])})'"):
            config.load("detr_swin", [f"{key}=1"])


def test_index_names_the_plugins() -> None:
    """By themselves or by their page."""
    text = (DOCS / "index.md").read_text()
    names = {name for group in ("backbones", "necks", "heads", "datasets") for name in ours(group)}
    assert not [name for name in names if f"`{name}`" not in text and f"({name}.md)" not in text]


def test_papers_page_names_the_plugins_and_their_files() -> None:
    text = (DOCS / "development/papers.md").read_text()
    plugins = [plugin for group in ("backbones", "heads", "methods") for plugin in ours(group).values()]
    papers = [plugin.name for plugin in plugins if plugin.value.startswith("densevit_papers.")]
    assert papers and not [name for name in papers if f"`{name}`" not in text and f"{{name: {name}," not in text]
    assert all((PROJECT / "plugins/densevit_papers" / file).is_file() for file in re.findall(r"`(\w+\.py)`", text))


def test_layouts_page_lists_the_layouts() -> None:
    """Each with its variants, in the third column of the table."""
    table = (DOCS / "reference/layouts.md").read_text().partition("\n## ")[0]
    cells = re.findall(r"^\|[^|]*\|[^|]*\|([^|]*)", table, re.MULTILINE)
    found = [find(name) for name in ours("checkpoints")]
    expected = {name for layout in found for name in (layout.name, *(variant.name for variant in layout.variants))}
    assert {name for cell in cells for name in re.findall(r"`([^`]+)`", cell)} == expected


def test_index_of_the_reference_lists_the_names_of_its_pages() -> None:
    """tests/docs/test_site.py: each public name is on a page."""
    rows = re.findall(r"^\| \[.+\]\((\w+\.md)\) \|(.*)\|$", (DOCS / "reference/index.md").read_text(), re.MULTILINE)
    pages = {page.name: page.read_text() for page in (DOCS / "reference").glob("*.md") if page.name != "index.md"}
    names = {name: re.findall(r"^::: densevit\.(\w+)$", text, re.MULTILINE) for name, text in pages.items()}
    assert {page: {*re.findall(r"`(\w+)`", cell)} for page, cell in rows} == {k: {*v} for k, v in names.items()}
    assert sorted(name for documented in names.values() for name in documented) == densevit.__all__
    found = re.findall(r"^::: densevit\.set_prediction\.(\w+)$", pages["set_prediction.md"], re.MULTILINE)
    assert found == densevit.set_prediction.__all__


def ours(group: str) -> dict[str, registry.Plugin]:
    """The built-in plugins of a group."""
    return {name: plugin for name, plugin in registry.find(group).items() if plugin.origin.startswith("densevit ")}
