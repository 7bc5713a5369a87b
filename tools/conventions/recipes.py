"""Configs: a base that shares something; first lines with the command and the score."""

import itertools
import re
from collections.abc import Iterator
from functools import partial

from tools.conventions.tree import Problem, Tree

SCORES = ("AP", "PQ", "mIoU", "AbsRel", "delta1", "top-1")
# Folders; others are published.
WITHOUT_SCORES = ("backbone", "benchmark", "data", "papers", "pretrain", "probe", "scenes", "start")
MOST_LINES = 6
VARIANT = re.compile(r"#   ([\w.]+=\S+(?: [\w.]+=\S+)*): (.+)")


def header(tree: Tree, file: str) -> str:
    """The first lines of a config, which are comments, in one line."""
    return " ".join(line.removeprefix("#").strip() for line in _first_comments(tree, file))


def _first_comments(tree: Tree, file: str) -> list[str]:
    return [*itertools.takewhile(lambda line: line.startswith("#"), tree.text(file).splitlines())]


def headers_are_short(tree: Tree) -> Iterator[Problem]:
    """The first lines are at most six: the command, the score, its source."""
    for file in tree.files("configs/**/*.yaml"):
        if (count := len(_first_comments(tree, file))) > MOST_LINES:
            fix = f"at most {MOST_LINES}: further models at the end, differences in docs/development/recipes.md"
            yield Problem(file, 1, f"{count} lines of comments before the first key", fix)


def bases_share_something(tree: Tree) -> Iterator[Problem]:
    """Without its `base`, a config is invalid or another one."""
    from densevit import config as configs  # late: it imports torch
    from densevit.errors import ConfigError

    for file in tree.files("configs/**/*.yaml"):
        path, folder = tree.root / file, file.split("/")[1]
        section = partial(configs.section, folder) if folder in ("backbone", "data") else None
        values = configs.yaml_io.read_file(path)
        if (base := values.pop("base", None)) is not None:
            try:
                alone = section(values, file) if section else configs.from_mapping(values)
            except ConfigError:
                continue
            if alone == (section(path, file) if section else configs.load(path)):
                yield Problem(file, tree.line_of(file, "base: "), f"{base} changes nothing", "remove the base")


def variants(text: str) -> dict[str, str]:
    """The remarks about further models in lines `#   backbone.variant=b1: mIoU 0.41` of a config, by overrides."""
    matches = (VARIANT.fullmatch(line) for line in text.splitlines())
    return {match[1]: match[2] for match in matches if match}


def published(tree: Tree) -> list[str]:
    """The recipes of papers, in folders by data set."""
    return [file for file in tree.files("configs/*/*.yaml") if file.split("/")[1] not in WITHOUT_SCORES]


def untrained_recipes_state_the_published_score(tree: Tree) -> Iterator[Problem]:
    for file in published(tree):
        text = header(tree, file).partition("Published, not run here:")[2]
        for overrides, remark in variants(tree.text(file)).items():
            text = text.replace(f"{overrides}: {remark}", "")
            if not _has_score(remark):
                fix = f"write '#   {overrides}: box AP 0.485'"
                yield Problem(file, 1, f"the line of {overrides} has no published score", fix)
        if not _has_score(text):
            fix = "write 'Published, not run here: box AP 0.485'"
            yield Problem(file, 1, "the first lines have no published score", fix)


def _has_score(text: str) -> bool:
    return any(re.search(rf"{score} [\d.]+", text) for score in SCORES)


def headers_have_the_command(tree: Tree) -> Iterator[Problem]:
    """The first lines contain a command with the file, or name the base with the command."""
    sections = tree.files("configs/data/*.yaml", "configs/pretrain/*.yaml", "configs/papers/*.yaml")
    for file in published(tree) + sections:
        base = re.search(r"^base: (.+)$", tree.text(file), re.MULTILINE)
        named = (f" {file} ", f" data={file} ") if base is None else (base[1],)
        if not any(name in header(tree, file) for name in named):
            yield Problem(file, 1, f"the first lines do not have {named[0].strip()}", "write the command that uses it")
    for file in tree.files("configs/start/*.yaml"):
        name = file.removeprefix("configs/").removesuffix(".yaml")
        if f"densevit train {name} " not in header(tree, file).replace("configs/", "").replace(".yaml", ""):
            yield Problem(file, 1, f"the first lines do not have densevit train {name}", "write the command")
    for file in tree.files("configs/probe/*.yaml"):
        name = file.removeprefix("configs/probe/").removesuffix(".yaml")
        if f"--protocol {name}" not in header(tree, file):
            yield Problem(file, 1, f"the first lines do not have --protocol {name}", "write the command")
