"""Griffe extension: docstrings of this project as Markdown.

They are plain text, in which parameters and attributes are described as in "lr: the learning rate. steps: the number."
"""

import re
import textwrap
from collections.abc import Collection
from typing import Any

import griffe

LABELS = "Returns|Raises|Yields|Default|Inverse"  # each begins a new paragraph


class Docstrings(griffe.Extension):
    """Rewrites the docstrings of a package when it has been read."""

    def on_package(self, *, pkg: griffe.Module, **_: Any) -> None:
        """Rewrites the docstring of every module, class, function and attribute."""
        self.rewrite(pkg)

    def rewrite(self, item: Any) -> None:
        """Rewrites a `griffe.Object` and its members."""
        if item.docstring is None and item.is_class and "__doc__" in item.members:  # __doc__ = Base.__doc__
            item.docstring = item.resolved_bases[0].docstring
        elif item.docstring is not None:
            item.docstring.value = markdown(item.docstring.value, described(item))
        for member in item.members.values():
            if not member.is_alias:
                self.rewrite(member)


def described(item: Any) -> set[str]:
    """The names that the docstring of a `griffe.Object` may describe: parameters (of `__init__` too) and attributes."""
    functions = [item, item.members.get("__init__")] if item.is_class else [item]
    names = {
        parameter.name
        for function in functions
        if isinstance(function, griffe.Function)
        for parameter in function.parameters
    }
    attributes = {name for name, member in item.members.items() if not member.is_alias and member.is_attribute}
    return (names | attributes) - {"self", "cls"}


def markdown(text: str, names: Collection[str]) -> str:
    """The Markdown of a docstring: a list of the names that it describes, code blocks, and paragraphs."""
    parts = []
    for paragraph in re.split(r"\n\s*\n", text.strip("\n")):
        if paragraph.startswith("    "):
            parts.append(paragraph)  # code
        elif paragraph.startswith("Example:\n"):
            title, code = paragraph.split("\n", 1)
            parts += [title, f"```pycon\n{textwrap.dedent(code)}\n```"]
        elif re.match(r"[-*] |\d\. ", paragraph):
            parts.append("\n".join(escaped(line) for line in paragraph.split("\n")))  # a list
        else:
            parts += blocks(" ".join(paragraph.split()), names)
    return "\n\n".join(parts)


def blocks(text: str, names: Collection[str]) -> list[str]:
    """The blocks of a paragraph: text, and lists of described names."""
    name = "|".join(sorted(map(re.escape, names), key=len, reverse=True)) or "(?!)"
    starts = rf"(?:^|(?<=[.;)] ))(?=(?:(?:{name})(?:, (?:{name}))*: )|(?:{LABELS})\b)"
    texts: list[str] = []
    for piece in filter(None, (piece.strip() for piece in re.split(starts, text))):
        described = re.match(rf"((?:{name})(?:, (?:{name}))*): (.*)", piece)
        if not described:
            texts.append(escaped(piece))
            continue
        entry = f"- {', '.join(f'`{word}`' for word in described[1].split(', '))}: {escaped(described[2])}"
        if texts and texts[-1].startswith("- "):
            texts[-1] += f"\n{entry}"
        else:
            texts.append(entry)
    return texts


def escaped(text: str) -> str:
    """Escapes the characters of Markdown and HTML in text outside of `code`."""
    parts = re.split(r"(`[^`]+`)", text)
    return "".join(part if i % 2 else re.sub(r"([*<\[\]]|\b_|_\b)", r"\\\1", part) for i, part in enumerate(parts))
