"""The code blocks of README.md and docs/."""

import re
import textwrap
from dataclasses import dataclass
from pathlib import Path

FENCE = re.compile(r"^(?P<indent> *)(?P<mark>```+|~~~+)\s*(?P<language>[\w+-]*)")
FILE = re.compile(r"`([\w./-]+\.(?:py|ya?ml))`")


@dataclass(frozen=True)
class Block:
    """A fenced block. line: of its opening fence, from 1. before: the nearest text above the fence."""

    page: str
    line: int
    language: str
    text: str
    before: str

    @property
    def id(self) -> str:
        return f"{self.page}:{self.line}"

    @property
    def file(self) -> str | None:
        """The file that the block shows, as the page says."""
        suffix = {"python": ".py", "yaml": ".yaml"}.get(self.language)
        first = re.match(r"# ([\w./-]+\.\w+)(:|$)", self.text.partition("\n")[0])
        named = FILE.findall(self.before) if self.before.endswith(":") else []
        file = first[1] if first else named[-1] if named else ""
        return file if file and Path(file).suffix == suffix else None


def pages(project: Path) -> list[Path]:
    return [project / "README.md", *sorted((project / "docs").rglob("*.md"))]


def blocks(project: Path) -> list[Block]:
    """All fenced blocks, in the order of the pages and lines."""
    return [block for path in pages(project) for block in parse(path.relative_to(project).as_posix(), path.read_text())]


def parse(page: str, text: str) -> list[Block]:
    """The blocks of a page. Raises ValueError for a fence that is not closed."""
    found: list[Block] = []
    opened: tuple[int, re.Match[str]] | None = None
    lines = text.split("\n")
    before = ""
    for number, line in enumerate(lines, 1):
        match = FENCE.match(line)
        if opened is None:
            if match:
                opened = number, match
            elif line.strip():
                before = line.strip()
        elif match and match["mark"] == opened[1]["mark"] and line.strip() == match["mark"]:
            inside = textwrap.dedent("\n".join(lines[opened[0] : number - 1])) + "\n"
            found.append(Block(page, opened[0], opened[1]["language"], inside, before))
            opened = None
    if opened is not None:
        raise ValueError(f"{page}:{opened[0]}: the block is not closed")
    return found
