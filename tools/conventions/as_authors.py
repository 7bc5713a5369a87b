"""The table of docs/development/as-the-authors.md is the layouts' records; tools/check --write fills it in."""

import re
import textwrap
from collections.abc import Iterator
from dataclasses import astuple, fields

from tools.conventions.tree import Problem, Tree

PAGE = "docs/development/as-the-authors.md"
TABLE = re.compile(r"^(<!-- records -->\n).*?^(<!-- end of records -->)$", re.MULTILINE | re.DOTALL)


def table() -> str:
    """A row for each record of complete models, and the layouts of published models without a record."""
    from densevit.interfaces import AsAuthors  # late: they import torch
    from densevit.layouts import every

    names: dict[AsAuthors, list[str]] = {}
    for layout in every():
        record = layout.publishing.as_authors
        if record != AsAuthors() or (layout.publishing.models and not layout.is_backbone):
            names.setdefault(record, []).append(f"`{layout.name}`")
    without_record = names.pop(AsAuthors(), [])
    heads = ["layouts", *(field.name for field in fields(AsAuthors))]
    rows = [
        ["<br>".join(layouts), *(cell or "not compared" for cell in astuple(record))]
        for record, layouts in names.items()
    ]
    lines = [f"|{'|'.join(cells)}|" for cells in (heads, ["---"] * len(heads), *rows)]
    last = f"Without a record: {', '.join(without_record) or 'none'}."
    return "\n".join([*lines, "", *textwrap.wrap(last, 120, break_on_hyphens=False)])


def written(tree: Tree) -> str:
    return TABLE.sub(lambda match: f"{match[1]}\n{table()}\n\n{match[2]}", tree.text(PAGE))


def comparisons_are_those_of_the_layouts(tree: Tree) -> Iterator[Problem]:
    if len(TABLE.findall(tree.text(PAGE))) != 1 or written(tree) != tree.text(PAGE):
        yield Problem(PAGE, 1, "the table is not that of the layouts", "run tools/check --write")


def write(tree: Tree) -> list[str]:
    """Writes the table; returns the page if it has changed."""
    text = written(tree)
    if text == tree.text(PAGE):
        return []
    (tree.root / PAGE).write_text(text, encoding="utf-8")
    return [PAGE]
