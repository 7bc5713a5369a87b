"""A tree of files that passes read, and the problems that they find in it."""

import ast
import configparser
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple


class Problem(NamedTuple):
    """A violated convention. line: its number, from 1. message and fix: clauses without a full stop."""

    file: str
    line: int
    message: str
    fix: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.message}. Fix: {self.fix}."


class Row(NamedTuple):
    """A row of a table in Markdown. line: its number, from 1."""

    line: int
    cells: list[str]


class Block(NamedTuple):
    """A fenced block. line, end: the numbers of its fences, from 1; end is None without a closing fence."""

    line: int
    end: int | None
    language: str
    text: str


FENCE = re.compile(r" *(```+|~~~+)\s*([\w+-]*)")


class Tree:
    """The files of a project. Each is read and parsed once; names are relative to the root, with `/`."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.texts: dict[str, str] = {}
        self._modules: dict[str, ast.Module] = {}

    def files(self, *patterns: str) -> list[str]:
        """The files that match the glob patterns, sorted within each."""
        paths = [path for pattern in patterns for path in sorted(self.root.glob(pattern)) if path.is_file()]
        hidden = ("__pycache__", ".ipynb_checkpoints")
        return [path.relative_to(self.root).as_posix() for path in paths if path.parent.name not in hidden]

    def exists(self, file: str) -> bool:
        return (self.root / file).is_file()

    def size(self, file: str) -> int:
        """In bytes."""
        return (self.root / file).stat().st_size

    def text(self, file: str) -> str:
        if file not in self.texts:
            self.texts[file] = (self.root / file).read_text(encoding="utf-8")
        return self.texts[file]

    def lines(self, file: str) -> Iterator[tuple[int, str]]:
        """The lines of a file with their numbers."""
        yield from enumerate(self.text(file).splitlines(), 1)

    def module(self, file: str) -> ast.Module:
        """The syntax tree of a Python file."""
        if file not in self._modules:
            self._modules[file] = ast.parse(self.text(file))
        return self._modules[file]

    def line_of(self, file: str, pattern: str) -> int:
        """The number of the first line that matches a regular expression; 1 if none does."""
        return next((number for number, line in self.lines(file) if re.search(pattern, line)), 1)

    def pages(self) -> list[str]:
        """README.md and the pages of docs/, as they are in the site."""
        return self.files("README.md", "docs/**/*.md")

    def blocks(self, page: str) -> Iterator[Block]:
        """The fenced blocks of a page."""
        opened: tuple[int, re.Match[str]] | None = None
        inside: list[str] = []
        for number, line in self.lines(page):
            fence = FENCE.match(line)
            if opened is None:
                opened, inside = ((number, fence), []) if fence else (None, [])
            elif line.strip() == opened[1][1]:
                yield Block(opened[0], number, opened[1][2], "\n".join(inside))
                opened = None
            else:
                inside.append(line)
        if opened is not None:
            yield Block(opened[0], None, opened[1][2], "\n".join(inside))

    def prose(self, page: str) -> Iterator[tuple[int, str]]:
        """The lines of a page outside of fenced blocks."""
        lines = list(self.lines(page))
        fenced = {number for block in self.blocks(page) for number, _ in lines[block.line - 1 : block.end]}
        yield from ((number, line) for number, line in lines if number not in fenced)

    def section(self, page: str, heading: str) -> Iterator[tuple[int, str]]:
        """The lines of a section with a heading of the second level, without that of the heading."""
        is_inside = False
        for number, line in self.lines(page):
            if line.startswith("## "):
                is_inside = line == f"## {heading}"
            elif is_inside:
                yield number, line

    def entry_points(self) -> dict[str, dict[str, str]]:
        """setup.cfg's entry points of plugins: by group (`heads`) and name, `module:attribute`."""
        options = self.setup()["options.entry_points"]
        groups = {group.partition(".")[2]: lines for group, lines in options.items() if group.startswith("densevit.")}
        split = {group: [line.split("=") for line in lines.split("\n") if line] for group, lines in groups.items()}
        return {group: {name.strip(): value.strip() for name, value in lines} for group, lines in split.items()}

    def setup(self) -> configparser.ConfigParser:
        """setup.cfg."""
        setup = configparser.ConfigParser()
        setup.optionxform = str  # type: ignore[assignment,method-assign]  # names are case-sensitive
        setup.read_string(self.text("setup.cfg"))
        return setup


def rows(lines: Iterator[tuple[int, str]]) -> list[Row]:
    """The rows of tables in Markdown, without the heads of tables and the lines below them."""
    found: list[Row] = []
    for number, line in lines:
        if re.fullmatch(r"\|[\s|:-]+\|", line) and found and found[-1].line == number - 1:
            found.pop()
        elif line.startswith("|") and line.rstrip().endswith("|"):
            found.append(Row(number, [cell.strip() for cell in line.strip()[1:-1].split("|")]))
    return found
