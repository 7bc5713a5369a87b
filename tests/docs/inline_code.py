"""Commands, overrides, keys, flags and paths outside of blocks: inline code of pages, comments of configs.

`tests.docs.resolution` checks them.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from densevit import registry
from tests.docs.code_blocks import FENCE

SECTIONS = ("backbone", "data", "heads", "inference", "method", "optim", "probes", "trainer")
SPAN = re.compile(r"(?<!`)(`+)(?!`)(.+?)(?<!`)\1(?!`)", re.DOTALL)
COMMAND = re.compile(
    r"(?:^|(?<=[ :]))(?:python (?:-m \w+|\S+\.py)|pip install|torchrun --|densevit {})(?![\w.])".format(
        f"(?:{'|'.join(one.partition(' ')[0] for one in registry.find('commands'))})"
    )
)
_VALUE = r"(?:\[[^\]]*\]|\{[^}]*\}|'[^']*'|[^\s;,)]*[^\s;,:.)])"
OVERRIDE = rf"'?(?:(?:{'|'.join(SECTIONS)})(?:\.[\w*]+)*|seed|weights|allow_mismatch)={_VALUE}'?"
KEY = rf"(?:{'|'.join(SECTIONS)})(?:\.[\w*]+)+"
PATH = r"(?:configs|densevit|docs|examples|plugins|tests|tools)/[\w./*-]*[\w/*]"
# In text without marks for code: overrides that follow one another, keys, and paths.
IN_TEXT = re.compile(
    rf"(?<![\w/.~=-])(?:{OVERRIDE}(?:\s+{OVERRIDE})*|{KEY}(?![\w/=])|{PATH}|(?:\.\./)?(?:\w+/)?\w+\.yaml)"
)


@dataclass(frozen=True)
class Inline:
    """Code in a text, as one line. line: where it begins, from 1."""

    page: str
    line: int
    text: str

    @property
    def id(self) -> str:
        return f"{self.page}:{self.line}"


def of_file(name: str, project: Path) -> list[Inline]:
    """The inline code of a page or of a config's comments, by line."""
    find = of_comments if name.endswith(".yaml") else of_page
    return [*find(name, (project / name).read_text())]


def of_page(page: str, text: str) -> Iterator[Inline]:
    """The inline code of a page, outside of its blocks."""
    lines, fence = text.split("\n"), ""
    for number, line in enumerate(lines):
        match = FENCE.match(line)
        if match and (not fence or (match["mark"] == fence and line.strip() == fence)):
            fence, lines[number] = "" if fence else match["mark"], ""
        elif fence:
            lines[number] = ""
    for number, paragraph in _paragraphs(lines):
        for match in SPAN.finditer(paragraph):
            line = number + paragraph.count("\n", 0, match.start())
            yield Inline(page, line, " ".join(match[2].replace("\\|", "|").split()))


def _paragraphs(lines: list[str]) -> Iterator[tuple[int, str]]:
    """The paragraphs with the number of their first line. A row of a table is one."""
    first, inside = 1, list[str]()
    for number, line in enumerate([*lines, ""], 1):
        ends = not line.strip() or line.lstrip().startswith("|")
        if ends and inside:
            yield first, "\n".join(inside)
            inside = []
        if line.lstrip().startswith("|"):
            yield number, line
        elif line.strip():
            first = first if inside else number
            inside.append(line.strip())


def of_comments(name: str, text: str) -> Iterator[Inline]:
    """The commands, overrides, keys and paths in the comments of a config."""
    lines = [line.partition("#")[2].strip() if line.lstrip().startswith("#") else "" for line in text.split("\n")]
    yield from _of_text(name, lines)


def _of_text(name: str, lines: list[str]) -> Iterator[Inline]:
    """A command takes the rest of its line, up to a semicolon outside of quotes, and those after a backslash."""
    lines = [*lines]
    for number, line in enumerate(lines):
        start = COMMAND.search(line)
        if start is None or "`" in line[: start.start()]:
            continue
        last = number
        while lines[last].endswith("\\"):
            last += 1
        lines[number] = line[: start.start()]
        rest = [line[start.start() :], *lines[number + 1 : last + 1]]
        lines[number + 1 : last + 1] = [""] * (last - number)
        command = " ".join(part.removesuffix("\\").strip() for part in rest)
        yield Inline(name, number + 1, re.split(r"; |\s{2,}", command)[0].rstrip(".:"))
    whole = "\n".join(re.sub(r"https?:\S+", "", line) for line in lines)
    for match in IN_TEXT.finditer(whole):
        yield Inline(name, 1 + whole.count("\n", 0, match.start()), " ".join(match[0].split()))
