"""The walks of docs/architecture.md: each named function or class stands in the named file."""

import ast
import re
from pathlib import Path

PAGE = "docs/architecture.md"
NAMES = re.compile(r"((?:`\w+`(?: and |, ))*`\w+`) in `([\w/]+\.py)`")


def steps(project: Path) -> list[tuple[str, str]]:
    """Names and the file that the page says they stand in."""
    walks = (project / PAGE).read_text().partition("## Four walks")[2].partition("\n## ")[0]
    return [(name, file) for names, file in NAMES.findall(walks) for name in re.findall(r"\w+", names) if name != "and"]


def test_steps_stand_where_the_page_says(project: Path) -> None:
    found = steps(project)
    assert len(found) > 35
    for name, file in found:
        tree = ast.parse((project / file).read_text())
        defined = {node.name for node in tree.body if isinstance(node, ast.ClassDef | ast.FunctionDef)}
        assert name in defined, f"{name} is not defined in {file}"


def test_every_step_names_a_file(project: Path) -> None:
    walks = (project / PAGE).read_text().partition("## Four walks")[2].partition("\n## ")[0]
    rows = [row for row in walks.splitlines() if row.startswith("| ") and not row.startswith("| step")]
    assert rows and all(NAMES.search(row) for row in rows), [row for row in rows if not NAMES.search(row)]
