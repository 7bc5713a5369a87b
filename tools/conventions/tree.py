"""A tree of files that passes read, and the problems that they find in it."""

import ast
import re
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


class Tree:
    """The files of a project. Each is read and parsed once; names are relative to the root, with `/`."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.texts: dict[str, str] = {}
        self._modules: dict[str, ast.Module] = {}

    def files(self, *patterns: str) -> list[str]:
        """The files that match the glob patterns, sorted within each."""
        paths = [path for pattern in patterns for path in sorted(self.root.glob(pattern)) if path.is_file()]
        return [path.relative_to(self.root).as_posix() for path in paths]

    def exists(self, file: str) -> bool:
        return (self.root / file).is_file()

    def text(self, file: str) -> str:
        if file not in self.texts:
            self.texts[file] = (self.root / file).read_text(encoding="utf-8")
        return self.texts[file]

    def module(self, file: str) -> ast.Module:
        """The syntax tree of a Python file."""
        if file not in self._modules:
            self._modules[file] = ast.parse(self.text(file))
        return self._modules[file]

    def line_of(self, file: str, text: str) -> int:
        """The number of the first line that has a text; 1 if none has."""
        return 1 + next((number for number, line in enumerate(self.text(file).splitlines()) if text in line), 0)

    def pages(self) -> list[str]:
        """README.md and the pages of docs/, as they are in the site."""
        return self.files("README.md", "docs/**/*.md")


def line_at(match: re.Match[str]) -> int:
    """The number of the line in which a match begins."""
    return match.string.count("\n", 0, match.start()) + 1
