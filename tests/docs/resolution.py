"""Inline code without running it: commands, flags, overrides, keys, paths and recipes exist.

Overrides are of the recipe that the code names, or of any recipe or plugin.
"""

import argparse
import dataclasses
import re
import shlex
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from densevit import cli, registry
from densevit import config as configs
from densevit.config import yaml_io
from densevit.errors import DensevitError
from densevit_probes.protocols import Protocol, backbone_section
from tests.docs import known_keys
from tests.docs.inline_code import KEY, OVERRIDE, PATH, Inline
from tests.docs.page_runner import PROGRAMS

PLACEHOLDER = re.compile(r"(?:my_?\w+(?::\w+)?|[A-Z][A-Z_]*)(?:/\S*)?")  # RUN, FILE, RUN/checkpoints, my_net
FILES = (".csv", ".json", ".npz", ".yaml")  # `data.yaml` is no key
OWN_CLASS = re.compile(r"(?:my_\w+|own_dataset)[\w.]*:\w+")  # of the reader's, and of an example
OWN_FILE = re.compile(r"(?:configs|tests)/(?:test_)?(?:my\w+|fcn)\.\w+")  # that a page makes
# Flags, paths and keys of other programs, projects and plugins; attributes in Python that are no keys.
OTHERS = (
    "backbone.layers", "backbone.layers.width=128", "densevit data count", "--ignore-scripts", "--no-deps", "--requeue",
    "densevit parameters --help", "--shm-size", "--signal", "--stronglyTyped",
    "tools/dataset_converters/pascal_context.py",
    "backbone.input_size",
    "heads.NAME.channels", "heads.NAME.classes", "heads.NAME.strides", "trainer.save_checkpoint",
)  # fmt: skip
SECTION_FOLDERS = ("backbone", "benchmark", "data")


@dataclass
class Resolver:
    """Of one project. build: builds the model of a config."""

    project: Path
    build: Callable[[configs.Config], None] = lambda config: None

    def check(self, code: Inline) -> None:
        """Raises AssertionError with the line for any error."""
        try:
            self._check(code)
        except (AssertionError, DensevitError) as error:
            raise AssertionError(f"{code.id}: {code.text}: {error}") from error

    def _check(self, code: Inline) -> None:
        try:
            words = shlex.split(code.text, comments=True)
        except ValueError:  # an apostrophe
            return
        text, name = " ".join(words), words[0] if words else ""
        if "&&" in words:
            for part in re.split(r"\s*&&\s*", code.text):
                self._check(dataclasses.replace(code, text=part))
        elif text in OTHERS or ("*" in text and re.fullmatch(KEY, text)):
            return
        elif name == "sbatch":
            self._path(words[1])
            self._command(["densevit", "train", *words[2:]])
        elif name in PROGRAMS or (words[1:] and command_of(words)):
            self._command(words if name in PROGRAMS else ["densevit", *words])
        elif name.startswith("--"):
            check_flags([word for word in words if word.startswith("--")], flags_of_tools(self.project))
        elif words and all(re.fullmatch(OVERRIDE, word) for word in words):
            check_overrides(words)
        elif re.fullmatch(KEY, text) and Path(text).suffix not in FILES:
            known_keys.check(text)
        elif re.fullmatch(rf"{PATH}(?:::\w+)?", text):
            self._path(text)
        elif re.fullmatch(r"[\w.]*/?\w+(?:\.yaml)?", name) and all("=" in word for word in words[1:]):
            self._recipe(name, words[1:])

    def _command(self, words: Sequence[str]) -> None:
        if list(words[:3]) == ["python", "-m", "densevit"]:
            words = words[2:]
        elif list(words[:2]) == ["python", "-m"] and words[2].startswith("tools."):
            words = ["python", f"{words[2].replace('.', '/')}.py", *words[3:]]
        program, *rest = [word for word in words if word not in ("--help", "--version")]
        if program == "densevit" and rest and not PLACEHOLDER.fullmatch(rest[0]):
            name = command_of(rest)
            assert name, f"there is no command {rest[0]!r}"
            check_flags([word for word in rest if word.startswith(("--", "[--"))], flags_of(cli.command(name)[1]))
            if name == "probe" and "--protocol" in rest:
                self._probe(rest[1 : rest.index("--protocol")], rest[rest.index("--protocol") + 1])
            self._arguments([word for word in rest[len(name.split()) :] if not word.startswith(("-", "["))])
        elif program == "python" and rest and rest[0].endswith(".py"):
            file = rest[0].removeprefix(".../")
            places = [place for place in (file, f"examples/{file}") if (self.project / place).is_file()]
            assert places, f"there is no {file}"
            check_flags(
                [word for word in rest[1:] if word.startswith("--")], flags_of_program(self.project / places[0])
            )

    def _arguments(self, words: Sequence[str]) -> None:
        """The overrides of a command, of the recipe before them."""
        overrides = [word for word in words if re.fullmatch(OVERRIDE, word)]
        recipes = [word for word in words if not OWN_FILE.fullmatch(word) and word.split("/")[0] not in SECTION_FOLDERS]
        shipped = yaml_io.shipped_configs()
        folders = {name.partition("/")[0] for name in shipped if "/" in name}
        recipes = [word for word in recipes if word in shipped or re.match(rf"({'|'.join(folders)}|configs)/", word)]
        if recipes and not PLACEHOLDER.fullmatch(recipes[0]):
            self._load(recipes[0], overrides)
        else:
            check_overrides(overrides)

    def _probe(self, backbones: Sequence[str], protocol: str) -> None:
        """The backbones under a protocol."""
        named = [one for one in backbones if without_placeholder(f"backbone={one}") != "backbone"]
        for backbone in named if (self.project / f"configs/probe/{protocol}.yaml").is_file() else ():
            if "=" not in backbone:
                self.build(Protocol.read(protocol).config(backbone_section(backbone)[1]))

    def _load(self, recipe: str, overrides: Sequence[str]) -> None:
        parts = [part for word in overrides for part in of_folder(word, recipe)]
        for word in parts:
            if without_placeholder(word) != word:
                known_keys.check(without_placeholder(word))
        config = configs.load(recipe, [word for word in parts if without_placeholder(word) == word])
        configs.check_plugins(config)
        self.build(config)

    def _path(self, text: str) -> None:
        if OWN_FILE.fullmatch(text):
            return
        file, _, function = text.partition("::")
        found = [*self.project.glob(file.rstrip("/"))]
        assert found, f"there is no {file}"
        assert not function or f"def {function}(" in found[0].read_text(), f"{file} has no {function}"

    def _recipe(self, name: str, overrides: Sequence[str]) -> None:
        """A recipe, or a file of the configs, by its name."""
        shipped, plain = yaml_io.shipped_configs(), name.removeprefix("../").removesuffix(".yaml")
        folders = {one.partition("/")[0] for one in shipped if "/" in one}
        if plain in shipped and plain.partition("/")[0] not in SECTION_FOLDERS and overrides:
            self._load(plain, overrides)
        elif plain.partition("/")[0] in folders and "/" in plain and not re.search("[A-Z]{2}", plain):
            assert plain in shipped, f"there is no recipe {plain}"


def command_of(words: Sequence[str]) -> str:
    """The command that begins with these words; empty if there is none."""
    commands = registry.find("commands")
    return next((name for name in (" ".join(words[:2]), words[0]) if name in commands), "")


def flags_of(*parsers: argparse.ArgumentParser) -> set[str]:
    """The flags of parsers; without, of all commands."""
    every: Iterator[argparse.ArgumentParser] = (cli.command(name)[1] for name in registry.find("commands"))
    return {flag for one in parsers or every for flag in one._option_string_actions}


def check_overrides(words: Sequence[str]) -> None:
    """Overrides of any recipe or plugin."""
    for part in (part for word in words for part in of_folder(word)):
        known_keys.check(without_placeholder(part))


def check_flags(words: Sequence[str], known: set[str]) -> None:
    for flag in re.findall(r"(?<![\w-])--[a-z][\w-]*", " ".join(words)):
        assert flag in known or flag in OTHERS, f"there is no flag {flag}"


@cache
def flags_of_tools(project: Path) -> set[str]:
    """Those of programs of tools/ and examples/, and of all commands."""
    files = (file for folder in ("tools", "examples") for file in (project / folder).rglob("*.py"))
    return {flag for file in files for flag in flags_of_program(file)} | flags_of()


@cache
def flags_of_program(file: Path) -> set[str]:
    """The flags that a program, or the modules beside it that it imports, add to a parser."""
    text = file.read_text()
    beside = (file.parent / f"{name}.py" for name in re.findall(r"^(?:from|import) (\w+)", text, re.MULTILINE))
    texts = [text, *(one.read_text() for one in beside if one.is_file() and one != file)]
    return {flag for one in texts for flag in re.findall(r'"(--[\w-]+)"', one)}


def without_placeholder(override: str) -> str:
    """The key alone of `seed=N`, of weights that the reader has, and of a class of the reader's own."""
    key, _, value = override.partition("=")
    is_placeholder = re.fullmatch(r"[A-Z]+|\.\.\.|\$\w+|runs/\S+", value) and not key.endswith("root")
    is_own = OWN_CLASS.fullmatch(value) or value in ("data.yaml", "mine.yaml", "mynet")
    return key if is_placeholder or is_own else override


def of_folder(override: str, recipe: str = "") -> list[str]:
    """`data=~/FOLDER` and `data=~/FOLDER/data.yaml`, which are short for `data.root=~/FOLDER` in recipes for the user's
    images, and for `data=folder data.root=~/FOLDER` in others."""
    key, _, value = override.partition("=")
    section = [] if recipe.startswith(("start/", "classifier")) else ["data=folder"]
    return [*section, f"data.root={value}"] if key == "data" and value.startswith("~/") else [override]
